"""mmext inside other people's projects: the package name, inherited configs, the wheel, mmdet's own scripts."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, DefaultScope
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
    path.write_text("_base_ = 'mmext::yolo/segment_v8n_8xb16-500e_coco.py'\n")
    cfg = Config.fromfile(path)
    # mmengine marks what it inherits; without a transparent scope mmdet's detector would not be found.
    assert cfg.model._scope_ == 'mmext'
    found = {}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for kind, part in ((MODELS, cfg.model), (HOOKS, cfg.default_hooks.checkpoint)):
            with kind.switch_scope_and_registry(part._scope_) as registry:
                found[part.type] = registry.get(part.type).__module__.partition('.')[0]
    assert found == {'SingleStageDetector': 'mmdet', 'CheckpointHook': 'mmengine'}


def test_installed_path__is_the_checkout():
    assert Path(get_installed_path('mmext')) == ROOT / 'mmext'
    assert (ROOT / 'mmext' / '.mim' / 'configs').resolve() == ROOT / 'configs'


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the checkout, so that nothing is left behind in it by a build."""
    folder = tmp_path_factory.mktemp('source')
    names = ('mmext', 'configs', 'tools', 'startup', 'setup.py', 'pyproject.toml', 'MANIFEST.in')
    for name in (*names, 'model-index.yml', 'README.md'):
        subprocess.run(['cp', '-RL', str(ROOT / name), str(folder / name)], check=True)
    return folder


def _unpack(folder):
    target = folder / 'unpacked'
    with zipfile.ZipFile(next(folder.glob('*.whl'))) as archive:
        archive.extractall(target)
    return target


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    """An unpacked wheel."""
    folder = tmp_path_factory.mktemp('wheel')
    command = ['-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-q', '.']
    result = _python(*command, '-w', folder, cwd=source)
    assert result.returncode == 0, result.stderr
    return _unpack(folder)


@pytest.fixture(scope='module')
def editable_wheel(source, wheel, tmp_path_factory):
    """What `pip install -e` copies into site-packages; it must come after the wheel, as it leaves links."""
    folder = tmp_path_factory.mktemp('editable')
    code = f'from setuptools import build_meta; build_meta.build_editable({str(folder)!r})'
    result = _python('-c', code, cwd=source)
    assert result.returncode == 0, result.stderr
    return _unpack(folder)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['wheel', 'editable_wheel'])
def test_wheel__brings_what_python_runs_at_its_start(kind, request):
    unpacked = request.getfixturevalue(kind)
    record = next(unpacked.glob('*.dist-info/RECORD')).read_text()
    startup = sorted((ROOT / 'startup').glob('_mmext_startup.*'))
    assert [path.suffix for path in startup] == ['.pth', '.py']
    for path in startup:
        assert (unpacked / path.name).read_text() == path.read_text()
        # Listed, so that uninstalling takes it away.
        assert f'\n{path.name},sha256=' in f'\n{record}'


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


@pytest.fixture
def installed(wheel, tmp_path):
    """Environment variables of a Python that has the wheel in a site-packages folder of its own."""
    (tmp_path / 'site').mkdir()
    code = f'import site\nsite.addsitedir({str(wheel)!r})\n'
    (tmp_path / 'site' / 'sitecustomize.py').write_text(code)
    return os.environ | {'PYTHONPATH': str(tmp_path / 'site')}


@pytest.fixture
def mmdet_script(installed, tmp_path):
    """Runs a script of mmdet in a project whose config names parts and a base of mmext, and imports nothing."""
    make_tiny_coco(tmp_path / 'data', 4)
    parts = FOREIGN_CONFIG.replace("custom_imports = dict(imports=['mmext'])\n", '')
    assert 'import' not in parts
    test = 'test_dataloader = val_dataloader\ntest_evaluator = val_evaluator\ntest_cfg = dict()\n'
    (tmp_path / 'config.py').write_text(f"_base_ = '{BASE}'\n{parts}{test}")
    scripts = Path(mmdet.__file__).parent / '.mim' / 'tools'

    def run(script, *arguments):
        command = (scripts / script, 'config.py', *arguments, '--work-dir', 'run')
        return _python(*command, cwd=tmp_path, **installed)

    return run


@pytest.mark.slow
def test_scripts_of_mmdet__train_and_test_without_any_import_of_mmext(mmdet_script):
    for command in (['train.py'], ['test.py', 'run/epoch_1.pth']):
        result = mmdet_script(*command)
        assert result.returncode == 0, result.stderr[-2000:]
        assert 'coco/segm_mAP' in result.stdout + result.stderr
    # By the hook of the base, as with our own tools.
    assert 'checkpoint run/epoch_1.pth into SingleStageDetector' in result.stdout + result.stderr


@pytest.mark.slow
def test_parts__in_a_project_of_mmseg_without_any_import_of_mmext(installed, tmp_path):
    # mmseg imports `mmcv.ops` with its models, as mmdet does.
    code = (
        'from mmseg.registry import MODELS\nimport mmseg.models\n'
        "part = MODELS.build(dict(type='mmext.CSPBackbone', deepen_factor=0.33, widen_factor=0.125))\n"
        'print(type(part).__name__)'
    )
    result = _python('-c', code, cwd=tmp_path, **installed)
    assert result.stdout.splitlines()[-1:] == ['CSPBackbone'], result.stderr


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.slow
def test_train_script_of_mmdet__refuses_a_checkpoint_that_runs_code(mmdet_script, tmp_path):
    torch.save({'state_dict': Hostile(str(tmp_path / 'executed'))}, tmp_path / 'hostile.pth')
    result = mmdet_script('train.py', '--resume', 'hostile.pth')
    assert result.returncode != 0
    assert 'checkpoint hostile.pth is refused' in result.stderr
    assert not (tmp_path / 'executed').exists()
