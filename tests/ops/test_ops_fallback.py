"""The import hook: who answers for `mmcv._ext`, and what it says about missing ops."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmext.ops.fallback import COMPILE_COMMAND


def run_python(code: str) -> str:
    """Run code in a fresh interpreter; returns what it prints, warnings included."""
    result = subprocess.run(
        [sys.executable, '-W', 'default', '-c', code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_import__mmext_pulls_in_no_torch():
    assert run_python('import sys, mmext; print("torch" in sys.modules)').split()[-1] == 'False'


def test_import__compiled_extension_wins(tmp_path: Path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    (tmp_path / 'mmcv' / '_ext.py').write_text('nms = "compiled"\n')
    code = (
        'import sys, mmext\n'
        f'sys.path.insert(0, {str(tmp_path)!r})\n'
        'import mmcv._ext\n'
        'print(mmcv._ext.nms)'
    )
    assert run_python(code).split()[-1] == 'compiled'


def test_import__installing_twice_adds_one_finder():
    code = (
        'import sys, mmext\n'
        'from mmext.ops import install_fallback\n'
        'before = len(sys.meta_path); install_fallback(); print(len(sys.meta_path) - before)'
    )
    assert run_python(code).split()[-1] == '0'


@pytest.mark.slow
def test_import__mmcv_says_nothing_about_missing_ops():
    code = (
        'import mmext, mmcv.cnn.bricks.transformer as bricks\n'
        'from mmcv.utils.ext_loader import check_ops_exist\n'
        'print(bricks.MultiScaleDeformableAttention.__name__, check_ops_exist())'
    )
    output = run_python(code)
    assert 'MultiScaleDeformableAttention True' in output
    assert 'Fail to import' not in output


def test_missing_op__names_itself_and_the_command(torch_ops):
    with pytest.raises(NotImplementedError) as error:
        torch_ops.upfirdn2d(1, name=2)
    assert "'upfirdn2d'" in str(error.value)
    assert COMPILE_COMMAND in str(error.value)
    assert '--no-build-isolation' in COMPILE_COMMAND and 'onedl-mmcv' in COMPILE_COMMAND


def test_missing_op__dunder_names_are_absent(torch_ops):
    assert not hasattr(torch_ops, '__path__')


def test_environment_report__says_that_nothing_is_compiled(torch_ops):
    from mmcv.utils import collect_env

    assert collect_env()['MMCV Compiler'] == 'none (torch ops of mmext)'
