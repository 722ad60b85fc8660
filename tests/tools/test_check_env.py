"""`check_env`: what it says about parts that are missing or broken, and its exit code."""

import subprocess
import sys

import pytest

from mmext.tools import check_env
from mmext.tools.check_env import Finding


@pytest.fixture
def installed(monkeypatch):
    """Returns a function that sets the versions that look installed."""

    def fake(**versions):
        monkeypatch.setattr(check_env, 'installed_version', versions.get)

    return fake


def test_check_versions__a_missing_part_has_its_command(installed):
    installed(torch='2.13.0', numpy='2.2.6')
    findings = {finding.subject: finding for finding in check_env.check_versions()}
    assert findings['torch'] == Finding('torch', '2.13.0')
    assert findings['transformers'].state == 'is not installed'
    assert findings['transformers'].remedy == 'pip install transformers'
    assert {'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation'} <= set(
        findings
    )


def test_check_torchvision__absent_is_fine(installed):
    installed(torch='2.13.0')
    assert check_env.check_torchvision().remedy is None


def test_check_torchvision__broken_build_is_to_be_uninstalled(installed, monkeypatch):
    installed(torchvision='0.20.0')
    error = 'RuntimeError: operator torchvision::nms does not exist'
    monkeypatch.setattr(check_env, 'import_error', lambda module: error)
    finding = check_env.check_torchvision()
    assert error in finding.state and finding.remedy == 'pip uninstall -y torchvision'


def test_import_error__is_the_last_line_of_the_traceback(tmp_path, monkeypatch):
    (tmp_path / 'broken_build.py').write_text('raise RuntimeError("operator x does not exist")\n')
    (tmp_path / 'aborting_build.py').write_text('import os\nos._exit(9)\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert check_env.import_error('json') is None
    assert check_env.import_error('broken_build') == 'RuntimeError: operator x does not exist'
    assert check_env.import_error('aborting_build') == 'the import ended with exit code 9'


def test_check_opencv__a_build_that_needs_windows_is_replaced(monkeypatch):
    error = 'ImportError: libGL.so.1: cannot open shared object file'
    monkeypatch.setattr(check_env, 'import_error', lambda module: error)
    assert 'opencv-python-headless<4.13' in check_env.check_opencv().remedy


def test_check_ops__ops_that_compute_wrongly_are_a_problem(monkeypatch):
    ops = check_env.importlib.import_module('mmcv.ops')
    assert check_env.check_ops().remedy is None

    def keep_all(boxes, scores, iou_threshold):
        return boxes, scores.argsort(descending=True)

    monkeypatch.setattr(ops, 'nms', keep_all)
    finding = check_env.check_ops()
    assert '[1, 2, 0], expected [1, 2]' in finding.state
    assert finding.remedy


@pytest.mark.parametrize(
    ('findings', 'code', 'last'),
    [
        pytest.param([Finding('a', '1'), Finding('b', '2')], 0, 'mmext can run here', id='good'),
        pytest.param(
            [Finding('a', '1'), Finding('b', 'gone', 'pip x')], 1, '1 problem(s)', id='bad'
        ),
    ],
)
def test_main__exit_code_and_last_line(monkeypatch, capsys, findings, code, last):
    monkeypatch.setattr(check_env, 'collect', lambda: iter(findings))
    assert check_env.main() == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == last
    assert sum(line.startswith('problem') for line in lines) == code
    assert any('run: pip x' in line for line in lines) is bool(code)


def test_script__wrong_stack_ends_without_a_traceback(tmp_path):
    # A newer mmengine, as far as the metadata say.
    folder = tmp_path / 'onedl_mmengine-0.11.0.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text(
        'Metadata-Version: 2.1\nName: onedl-mmengine\nVersion: 0.11.0\n'
    )
    script = check_env.__file__.replace('mmext/tools/', 'tools/')
    result = subprocess.run(
        [sys.executable, script],
        env={'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert 'onedl-mmengine 0.11.0' in result.stderr and 'pip install' in result.stderr
    assert 'Traceback' not in result.stderr


@pytest.mark.slow
def test_script__says_that_this_machine_can_run_mmext():
    result = subprocess.run(
        [sys.executable, '-m', 'mmext.tools.check_env'], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
    assert 'mmcv ops' in result.stdout and 'cpu' in result.stdout
