"""mmext inside other people's projects: the package name, inherited configs, the wheel, mmdet's own train script."""

import subprocess
import sys
import zipfile
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, DefaultScope
from mmengine.utils import get_installed_path

import mmext
from tests.foreign import FOREIGN_CONFIG
from tests.tiny import make_tiny_coco

ROOT = Path(mmext.__file__).parents[1]
BASE = 'mmext::_base_/runtime/default.py'


def _python(*args, cwd, **env):
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env or None, capture_output=True, text=True)


@pytest.mark.parametrize(
    'imports',
    [
        pytest.param('import mmext\nfrom mmengine.config import Config', id='mmext-first'),
        pytest.param('from mmengine.config import Config\nimport mmext', id='mmengine-first'),
    ],
)
def test_base__inherits_from_another_folder(tmp_path, imports):
    (tmp_path / 'foreign.py').write_text(f"_base_ = '{BASE}'\nlog_level = 'ERROR'\n")
    code = (
        f'{imports}\ncfg = Config.fromfile("foreign.py")\nprint(cfg.log_level, cfg.default_scope)'
    )
    result = _python('-c', code, cwd=tmp_path)
    assert result.stdout.splitlines()[-1:] == ['ERROR mmdet'], result.stderr


def test_base__mmseg_resolves_to_the_installed_fork(tmp_path):
    path = tmp_path / 'foreign.py'
    path.write_text("_base_ = 'mmseg::_base_/schedules/schedule_20k.py'\n")
    assert Config.fromfile(path).train_cfg.max_iters == 20000


def test_base__inherited_parts_build_as_they_do_at_home(tmp_path):
    path = tmp_path / 'foreign.py'
    path.write_text(f"_base_ = '{BASE}'\n")
    cfg = Config.fromfile(path)
    # mmengine marks what it inherits; without a transparent scope mmdet's hook would not be found.
    assert cfg.default_hooks.visualization._scope_ == 'mmext'
    found = {}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for name, hook in cfg.default_hooks.items():
            with HOOKS.switch_scope_and_registry(hook._scope_) as registry:
                found[name] = registry.get(hook.type).__module__.partition('.')[0]
    assert found['visualization'] == 'mmdet' and found['checkpoint'] == 'mmengine'


def test_installed_path__is_the_checkout():
    assert Path(get_installed_path('mmext')) == ROOT / 'mmext'
    assert (ROOT / 'mmext' / '.mim' / 'configs').resolve() == ROOT / 'configs'


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """An unpacked wheel, built from a copy, so that nothing is left behind in the checkout."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    names = ('mmext', 'configs', 'tools', 'setup.py', 'pyproject.toml', 'MANIFEST.in')
    for name in (*names, 'model-index.yml', 'README.md'):
        subprocess.run(['cp', '-RL', str(ROOT / name), str(source / name)], check=True)
    command = ['-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-q', '.']
    result = _python(*command, '-w', folder, cwd=source)
    assert result.returncode == 0, result.stderr
    target = folder / 'unpacked'
    with zipfile.ZipFile(next(folder.glob('*.whl'))) as archive:
        archive.extractall(target)
    return target


@pytest.mark.slow
def test_wheel__brings_configs_and_tools(wheel):
    packed = {str(path.relative_to(wheel / 'mmext')) for path in (wheel / 'mmext').rglob('*.*')}
    configs = {f'.mim/{p.relative_to(ROOT)}' for p in (ROOT / 'configs').rglob('*.py')}
    tools = {f'tools/{p.name}' for p in (ROOT / 'mmext' / 'tools').glob('*.py')}
    thin = {f'.mim/tools/{p.name}' for p in (ROOT / 'tools').glob('*.*')}
    assert configs | tools | thin | {'.mim/model-index.yml'} <= packed
    assert not [name for name in packed if name.endswith('.pyc')]


@pytest.mark.slow
def test_wheel__asks_for_the_stack_that_the_guard_checks(wheel):
    from mmext._stack import STACK

    text = next(wheel.glob('*.dist-info/METADATA')).read_text()
    for part in STACK:
        assert f'Requires-Dist: {part.name}<{part.below},>={part.minimum}; extra == "onedl"' in text
    unconditional = [
        line for line in text.splitlines() if 'Requires-Dist' in line and ';' not in line
    ]
    assert not [line for line in unconditional if 'mm' in line]


@pytest.mark.slow
def test_wheel__its_configs_are_found_by_name(wheel, tmp_path):
    (tmp_path / 'foreign.py').write_text(f"_base_ = '{BASE}'\n")
    code = (
        'import mmext\nfrom mmengine.config import Config\n'
        'print(mmext.__file__, Config.fromfile("foreign.py").default_scope)'
    )
    result = _python('-c', code, cwd=tmp_path, PYTHONPATH=str(wheel))
    assert result.stdout.split()[-2:] == [str(wheel / 'mmext' / '__init__.py'), 'mmdet'], (
        result.stderr
    )


@pytest.mark.slow
def test_train_script_of_mmdet__trains_segment_in_a_foreign_project(tmp_path):
    make_tiny_coco(tmp_path / 'data', 4)
    (tmp_path / 'config.py').write_text(FOREIGN_CONFIG)
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    result = _python(script, 'config.py', '--work-dir', 'run', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()
    assert 'coco/segm_mAP' in result.stdout + result.stderr


@pytest.mark.slow
def test_train_script_of_mmdet__mistyped_name_suggests_ours(tmp_path):
    make_tiny_coco(tmp_path / 'data', 4)
    (tmp_path / 'config.py').write_text(FOREIGN_CONFIG.replace('mmext.CSPPAN', 'mmext.CSPPANN'))
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    result = _python(script, 'config.py', '--work-dir', 'run', cwd=tmp_path)
    assert result.returncode != 0
    assert 'did you mean `mmext.CSPPAN`?' in result.stderr


@pytest.mark.slow
def test_train_tool__runs_a_foreign_config_that_inherits_ours(tmp_path):
    # mmdet's script parses `_base_` before anything has imported mmext, so such configs go through our tool.
    make_tiny_coco(tmp_path / 'data', 4)
    (tmp_path / 'config.py').write_text(f"_base_ = '{BASE}'\n{FOREIGN_CONFIG}")
    command = ('-m', 'mmext.tools.train', 'config.py', '--work-dir', 'run', '--device', 'cpu')
    result = _python(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()
    assert 'Failed to search registry' not in result.stdout + result.stderr
