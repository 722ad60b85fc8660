"""The stack guard, with invented sets of installed distributions."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mmext._stack import OVERRIDE, StackError, check_stack, release

ROOT = Path(__file__).resolve().parents[1]

GOOD = {
    'torch': '2.13.0+cpu',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6.post1',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2',
}


@pytest.fixture
def install(monkeypatch):
    """Returns a function that makes exactly the given distributions look installed."""
    monkeypatch.delenv(OVERRIDE, raising=False)

    def fake(installed, requires=()):
        def version(name):
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(metadata, 'version', version)
        monkeypatch.setattr(metadata, 'requires', lambda name: list(requires))

    return fake


@pytest.mark.filterwarnings('error')
def test_check_stack__supported_versions_pass_without_a_word(install):
    install(GOOD)
    check_stack()


def test_check_stack__the_installed_stack_passes():
    check_stack()


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        pytest.param({'torch': None}, ['torch is not installed', 'pip install'], id='no-torch'),
        pytest.param({'torch': '2.5.1'}, ['torch 2.5.1', '"torch>=2.6"'], id='old-torch'),
        pytest.param(
            {name: None for name in GOOD if name != 'torch'},
            [
                'onedl-mmengine is not installed',
                'pip install "onedl-mmengine>=0.10.12,<0.11" "onedl-mmcv>=2.3.6,<2.4" '
                '"onedl-mmdetection>=3.5.1,<3.6" "onedl-mmsegmentation>=1.4.2,<1.5"',
            ],
            id='no-stack',
        ),
        pytest.param(
            {'onedl-mmsegmentation': None},
            ['pip install "onedl-mmsegmentation>=1.4.2,<1.5"'],
            id='one-part-missing',
        ),
        pytest.param(
            {'mmcv': '2.1.0', 'mmdet': '3.3.0'},
            [
                'two families',
                'mmcv 2.1.0',
                'onedl-mmcv 2.3.6.post1',
                'pip uninstall -y mmcv mmdet onedl-mmengine onedl-mmcv onedl-mmdetection '
                'onedl-mmsegmentation && pip install "onedl-mmengine',
            ],
            id='two-families',
        ),
        pytest.param(
            {**{name: None for name in GOOD if name != 'torch'}, 'mmengine': '0.10.7'},
            ['upstream', 'mmengine 0.10.7', 'pip uninstall -y mmengine && pip install "onedl'],
            id='upstream-only',
        ),
        pytest.param(
            {'onedl-mmcv': '2.3.5'},
            ['onedl-mmcv 2.3.5', 'pip install "onedl-mmcv>=2.3.6,<2.4"'],
            id='too-old',
        ),
        pytest.param(
            {'onedl-mmdetection': '3.6.0'},
            ['onedl-mmdetection 3.6.0', '<3.6"', f'{OVERRIDE}=1'],
            id='too-new',
        ),
    ],
)
def test_check_stack__one_message_with_the_command_that_mends_it(install, changes, expected):
    install({name: version for name, version in {**GOOD, **changes}.items() if version})
    with pytest.raises(StackError) as caught:
        check_stack()
    message = str(caught.value)
    assert 'got:' in message and 'expected:' in message and 'run:' in message
    for part in expected:
        assert part in message


def test_check_stack__names_only_the_parts_that_are_wrong(install):
    install({**GOOD, 'onedl-mmcv': '2.3.5'})
    with pytest.raises(StackError) as caught:
        check_stack()
    assert 'mmengine' not in str(caught.value) and OVERRIDE not in str(caught.value)


def test_check_stack__override_turns_a_newer_version_into_a_warning(install, monkeypatch):
    install({**GOOD, 'onedl-mmengine': '0.11.0'})
    monkeypatch.setenv(OVERRIDE, '1')
    with pytest.warns(UserWarning, match=r'untested.*onedl-mmengine 0\.11\.0'):
        check_stack()


def test_check_stack__override_does_not_excuse_an_older_version(install, monkeypatch):
    install({**GOOD, 'onedl-mmengine': '0.10.11', 'onedl-mmcv': '2.4'})
    monkeypatch.setenv(OVERRIDE, '1')
    with pytest.raises(StackError, match='onedl-mmengine 0.10.11'):
        check_stack()


def test_check_stack__torchvision_of_another_torch_gives_the_remedy(install):
    install({**GOOD, 'torchvision': '0.29.1'}, requires=['numpy', 'torch==2.14.0'])
    with pytest.warns(UserWarning, match='pip uninstall -y torchvision'):
        check_stack()


@pytest.mark.filterwarnings('error')
def test_check_stack__matching_torchvision_is_left_alone(install):
    install({**GOOD, 'torchvision': '0.28.0'}, requires=['torch==2.13.0'])
    check_stack()


@pytest.mark.parametrize(
    ('version', 'numbers'),
    [('2.13.0+cpu', (2, 13, 0)), ('2.3.6.post1', (2, 3, 6)), ('0.11.0rc1', (0, 11, 0)), ('', ())],
)
def test_release__leading_numbers(version, numbers):
    assert release(version) == numbers


def _run(code):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)


def test_import__stops_with_the_message_and_nothing_else_imported():
    result = _run(
        'from importlib import metadata\n'
        'def version(name):\n'
        '    if name != "torch":\n'
        '        raise metadata.PackageNotFoundError(name)\n'
        '    return "2.13.0"\n'
        'metadata.version = version\n'
        'import mmext'
    )
    assert result.returncode == 1
    assert 'onedl-mmcv is not installed' in result.stderr and 'pip install' in result.stderr


def test_import__pulls_neither_torch_nor_the_stack():
    result = _run(
        'import sys, mmext\n'
        'heavy = {"torch", "numpy", "cv2", "mmengine", "mmcv", "mmdet", "mmseg"}\n'
        'sys.exit(", ".join(heavy & set(sys.modules)) or None)'
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    'command',
    [
        pytest.param([ROOT / 'tools' / 'train.py', 'config.py'], id='tool'),
        pytest.param(['-m', 'mmext.tools.train', 'config.py'], id='module'),
        pytest.param(['-c', 'import mmext'], id='import'),
    ],
)
def test_import__ends_a_program_with_the_message_alone(command, tmp_path):
    (tmp_path / 'mmdet-3.3.0.dist-info').mkdir()
    metadata_file = tmp_path / 'mmdet-3.3.0.dist-info' / 'METADATA'
    metadata_file.write_text('Metadata-Version: 2.1\nName: mmdet\nVersion: 3.3.0\n')
    env = os.environ | {'PYTHONPATH': str(tmp_path)}
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env)
    assert result.returncode == 1
    lines = [line.split(':')[0].strip() for line in result.stderr.splitlines()]
    assert lines == ['error', 'got', 'expected', 'run']


def test_import__leaves_the_traceback_of_other_errors():
    result = _run(
        'from mmext._stack import show_without_traceback\n'
        'show_without_traceback()\n'
        'raise ImportError("not ours")'
    )
    assert 'Traceback' in result.stderr and 'ImportError: not ours' in result.stderr
