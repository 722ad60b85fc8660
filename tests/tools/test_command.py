"""`run_command`: exit codes, and the one message that every tool gives."""

import argparse
from types import ModuleType

import pytest
from mmengine.config import Config

from mmext.tools import convert_dataset, convert_weights, demo, make_synthetic, test, train
from mmext.tools.command import add_hook, run_command
from tests.one_message import HINT, one_error

QUIET = argparse.Namespace(traceback=False)


@pytest.mark.parametrize(('result', 'code'), [(None, 0), (0, 0), (1, 1)])
def test_run_command__exit_code_is_what_the_command_returns(result, code):
    assert run_command(lambda args: result, QUIET) == code


@pytest.mark.parametrize('error', [ValueError, KeyError, FileNotFoundError, ImportError])
def test_run_command__a_mistake_of_the_user_is_one_message(error, capsys):
    def command(args: argparse.Namespace) -> None:
        raise error('no such thing')

    assert run_command(command, QUIET) == 2
    assert one_error(capsys) == 'error: no such thing'


def test_run_command__a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda args: 1 // 0, QUIET)


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        (convert_dataset, ['yolo', 'gone', 'out']),
        (convert_weights, ['gone.pt', 'gone.pth', '--source', 'ultralytics']),
        (make_synthetic, ['out', '--size', '1']),
        (demo, ['out', '--num-train', '-1']),
        (test, ['gone.py', 'gone.pth']),
        (train, ['gone.py']),
    ],
    ids=lambda value: value.__name__.rpartition('.')[2] if isinstance(value, ModuleType) else None,
)
def test_main__traceback_on_request(tool, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tool.main(arguments) == 2
    assert 'Traceback' not in capsys.readouterr().err
    assert tool.main([*arguments, '--traceback']) == 2
    errors = capsys.readouterr().err
    assert 'Traceback' in errors
    assert errors.splitlines()[-1] == HINT


@pytest.mark.parametrize(
    'present',
    [
        dict(),
        dict(custom_hooks=[dict(type='A'), dict(type='B', a=1)]),
        dict(default_hooks=dict(timer=None, report=dict(type='B', a=1))),
    ],
    ids=['absent', 'custom', 'default'],
)
def test_add_hook__is_there_once_and_with_its_settings(present):
    cfg = Config(present)
    add_hook(cfg, dict(type='B', strict=True))
    hooks = [*cfg.get('default_hooks', {}).values(), *cfg.get('custom_hooks', [])]
    (found,) = [hook for hook in hooks if hook is not None and hook['type'] == 'B']
    # What the config says besides stays.
    assert found == dict(type='B', strict=True) | ({'a': 1} if present else {})
