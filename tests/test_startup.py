"""What an installed mmext leaves at the start of every Python: next to nothing, until mmengine is imported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STARTUP = ROOT / 'startup'
START = 'import site, sys; site.addsitedir({folder!r}); '
# Says whether mmext is there, and whether anything heavy is, while it is being imported itself.
MMENGINE = """
import sys
print(sorted({'mmext', 'torch', 'numpy', 'mmcv'} & set(sys.modules)))
"""


def _run(code, *options, path=None):
    env = os.environ | ({'PYTHONPATH': str(path)} if path else {})
    command = [sys.executable, *options, '-c', code]
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    return result


def _start(folder=STARTUP):
    return START.format(folder=str(folder))


def _distribution(folder, name, version, requires=()):
    """Makes a distribution look installed: mmext's guard reads nothing but metadata."""
    info = folder / f'{name}-{version}.dist-info'
    info.mkdir()
    lines = [f'Name: {name}', f'Version: {version}', *(f'Requires-Dist: {r}' for r in requires)]
    (info / 'METADATA').write_text('\n'.join(['Metadata-Version: 2.1', *lines, '']))


@pytest.fixture
def path(tmp_path):
    """A folder for PYTHONPATH with a stand-in for mmengine."""
    (tmp_path / 'mmengine').mkdir()
    (tmp_path / 'mmengine' / '__init__.py').write_text(MMENGINE)
    return tmp_path


def test_start__imports_one_module_and_nothing_else():
    code = (
        'import site, sys; before = set(sys.modules); '
        f'site.addsitedir({str(STARTUP)!r}); print(set(sys.modules) - before)'
    )
    # Without the site-packages of this Python, where mmext may be installed and have started already.
    assert _run(code, '-I', '-S').stdout == "{'_mmext_startup'}\n"


def test_import_of_mmengine__finds_mmext_loaded(path):
    result = _run(_start() + 'import mmengine', path=path)
    assert result.stdout == "['mmext']\n"


def test_import_of_mmengine__has_mmext_offer_its_ops_and_its_name(path):
    code = (
        'import mmengine; print({type(f).__name__ for f in sys.meta_path} '
        '>= {"FallbackFinder", "_AfterImport"})'
    )
    assert _run(_start() + code, path=path).stdout.splitlines()[-1] == 'True'


@pytest.mark.parametrize('reason', ['mmext is gone', 'upstream', 'a warning is an error'])
def test_import_of_mmengine__works_where_mmext_cannot(path, reason):
    options, gone = [], ''
    if reason == 'mmext is gone':
        gone = 'sys.modules["mmext"] = None; '
    elif reason == 'upstream':
        _distribution(path, 'mmdet', '3.3.0')
    else:
        _distribution(path, 'torchvision', '0.1', ['torch==1.0.0'])
        options = ['-W', 'error::UserWarning']
    result = _run(f'{_start()}{gone}import mmengine; print(len("done"))', *options, path=path)
    assert result.stdout.splitlines()[-1] == '4'
    assert result.stderr == ''
    if not gone:
        # The reason is real: an import of mmext stops.
        code = (
            'try:\n    import mmext\nexcept (ImportError, UserWarning) as error:\n    print("no")'
        )
        assert _run(code, *options, path=path).stdout == 'no\n'


def test_start__says_nothing_where_the_module_is_gone(tmp_path):
    shutil.copy2(STARTUP / '_mmext_startup.pth', tmp_path)
    # As above; and the .pth file is read, or the module could not be found where it is there.
    result = _run(_start(tmp_path) + 'print("_mmext_startup" in sys.modules)', '-I', '-S')
    assert (result.stdout, result.stderr) == ('False\n', '')
