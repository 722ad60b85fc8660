"""The import arrows and adapters of the architecture, and the limits on files and functions, from the syntax trees.

registry, ops, structures <- datasets
                          <- models/common <- models/backbones, models/<system>
                          <- evaluation, visualization, engine
apis                      <- everything above; nothing imports apis
tools and tests import anything, and nothing imports them

In each system only the adapter subclasses classes of mmdet or mmseg and sees data samples.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
FORBIDDEN_NAMES = ('utils.py', 'misc.py')
# mmengine.hub calls `mmext.utils.register_all_modules`; the file holds that one name.
ALLOWED_NAMES = ('mmext/utils.py',)

GROUND = {'registry', 'ops', 'structures', 'version', '_stack', '_plugin'}
# What each part may import besides itself. A system under models/ is a part of its own.
ARROWS = {
    **{part: GROUND for part in GROUND},
    'mmext': GROUND,
    'utils': GROUND,
    'datasets': GROUND,
    'evaluation': GROUND,
    'visualization': GROUND,
    'engine': GROUND,
    'models.common': GROUND,
    'models.backbones': GROUND | {'models.common'},
    'models.<system>': GROUND | {'models.common'},
}

# The files that may speak the framework's language: heads and detectors, and what unpacks samples for them.
ADAPTERS = {
    'common': {
        'instance_tta.py',  # merges the samples of several views, whatever predicted them
        'batch_augments.py',  # changes the samples of a batch, whatever learns from them
        'batch_resize.py',
    },
    'backbones': {'resnet_stem.py'},  # an encoder of mmseg that returns one map more
    'attn_unet': {'head.py', 'matting.py', 'preprocessor.py', 'tta.py'},
    'deim': {'detector.py', 'multimodal.py'},
    'localizer': {'localizer.py'},
    'query_seg': {'head.py', 'neck_head.py', 'semantic_head.py', 'fusion_head.py', 'tta.py'},
    'segformer': {'head.py', 'fast_head.py'},
    'yolo': {'head.py', 'enhanced_head.py', 'attention_head.py', 'truth.py'},
}
FRAMEWORKS = ('mmdet', 'mmseg')
# Containers of boxes and masks travel inside samples and are known everywhere.
CONTAINERS = ('bbox', 'mask')


def part_of(module: str) -> str:
    """`'mmext.models.yolo.head'` -> `'models.yolo'`, `'mmext.engine.hooks.ema'` -> `'engine'`."""
    names = module.split('.')[1:]
    if not names:
        return 'mmext'
    return '.'.join(names[:2]) if names[0] == 'models' else names[0]


def may_import(importer: str, imported: str) -> bool:
    """Whether one part may import another."""
    if importer == imported or importer == 'tools':
        return True
    if imported in ('tools', 'apis', 'mmext', 'utils'):
        return False
    if importer in ('apis', 'models'):  # models/__init__.py gathers the systems
        return importer == 'apis' or imported.startswith('models')
    if importer.startswith('models.') and importer not in ARROWS:
        importer = 'models.<system>'
    return imported in ARROWS[importer]


def module_name(path: Path, root: Path) -> str:
    names = path.relative_to(root).with_suffix('').parts
    return '.'.join(names[:-1] if names[-1] == '__init__' else names)


def absolute_base(node: ast.ImportFrom, path: Path, root: Path) -> str:
    """`from ..deim import head` in `mmext/models/yolo/a.py` -> `'mmext.models.deim'`."""
    if not node.level:
        return node.module or ''
    name = module_name(path, root)
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    outer = package.split('.')[: len(package.split('.')) - node.level + 1]
    return '.'.join([*outer, node.module] if node.module else outer)


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of the syntax tree of a file, which does not change while the tests run."""
    return list(ast.walk(ast.parse(path.read_text(encoding='utf-8'), str(path))))


def called(function: ast.expr) -> str:
    """The last name of what is called: `'import_module'` of `importlib.import_module(...)`."""
    return getattr(function, 'attr', None) or getattr(function, 'id', '')


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import, also of those within functions and of `import_module('...')`."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute_base(node, path, root)
            # `from mmext.models import yolo` imports a module: look one name further where there is one.
            for alias in node.names:
                longer = root.joinpath(*base.split('.'), alias.name)
                is_module = longer.is_dir() or longer.with_suffix('.py').is_file()
                yield node.lineno, f'{base}.{alias.name}' if is_module else base
        elif isinstance(node, ast.Call) and called(node.func) == 'import_module':
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                yield node.lineno, str(argument.value)


def broken_arrows(root: Path) -> list[str]:
    """Every import below `root/mmext` that goes against the arrows."""
    found = []
    for path in sorted((root / 'mmext').rglob('*.py')):
        importer = part_of(module_name(path, root))
        for line, imported in imports(path, root):
            outside = imported.split('.')[0] != 'mmext'
            if outside and imported.split('.')[0] not in ('tests', 'tools', 'configs'):
                continue
            if outside or not may_import(importer, part_of(imported)):
                found.append(f'{path.relative_to(root)}:{line} imports {imported}')
    return found


def is_sample(name: str) -> bool:
    """`'mmdet.structures.DetDataSample'` and the module it comes from, but not `'mmdet.structures.mask.X'`."""
    package, *names = name.split('.')
    known = package in (*FRAMEWORKS, 'mmengine') and names[:1] == ['structures']
    return known and (len(names) == 1 or names[1] not in CONTAINERS)


def imported_names(path: Path, root: Path) -> dict[str, str]:
    """Every name that a file imports -> its full name: `{'nn': 'torch.nn', 'Head': 'mmext.models.yolo.head.Head'}`."""
    found = {}
    for node in nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition('.')[0]
                found[alias.asname or alias.name] = alias.name
                found.setdefault(top, top)
        elif isinstance(node, ast.ImportFrom):
            base = absolute_base(node, path, root)
            found |= {alias.asname or alias.name: f'{base}.{alias.name}' for alias in node.names}
    return found


def speaks_framework(path: Path, root: Path) -> bool:
    """Whether a file imports data samples, or subclasses a class of a framework or of an adapter beside it."""
    names = imported_names(path, root)
    if any(is_sample(name) for name in names.values()):
        return True
    system = module_name(path, root).rpartition('.')[0]
    own_adapters = {f'{system}.{name[:-3]}' for name in ADAPTERS.get(path.parent.name, ())}
    for node in nodes(path):
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            source = names.get(ast.unparse(base).partition('.')[0], '')
            is_own = any(f'{source}.'.startswith(f'{adapter}.') for adapter in own_adapters)
            if source.partition('.')[0] in FRAMEWORKS or is_own:
                return True
    return False


def strange_adapters(root: Path) -> list[str]:
    """The files of models that speak the framework's language without being adapters."""
    return [
        path.relative_to(root).as_posix()
        for path in sorted((root / 'mmext' / 'models').glob('*/*.py'))
        if path.name not in ADAPTERS.get(path.parent.name, ()) and speaks_framework(path, root)
    ]


def source_files(*folders: str) -> list[Path]:
    """Python files of the checkout below the given folders."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob('*.py'))
    return sorted(path for path in paths if '.mim' not in path.parts)


def test_imports__follow_the_arrows():
    assert broken_arrows(ROOT) == []


def test_imports__no_torchvision_anywhere():
    found = [
        f'{path.relative_to(ROOT)}:{line}'
        for path in source_files('mmext', 'tools', 'tests')
        if 'torchvision' in path.read_text(encoding='utf-8')
        for line, name in imports(path, ROOT)
        if name.split('.')[0] == 'torchvision'
    ]
    assert found == []


@pytest.mark.parametrize(
    ('file', 'code', 'broken'),
    [
        ('models/yolo/a.py', 'from mmext.models.deim import encoder', True),
        ('models/yolo/a.py', 'from mmext.models import deim', True),
        ('models/yolo/a.py', 'from ..deim.encoder import Encoder', True),
        ('models/yolo/a.py', 'from mmext.models.common.layers import C2f', False),
        ('models/yolo/a.py', 'from .b import c', False),
        ('models/common/a.py', 'import mmext.models.yolo.head', True),
        ('models/backbones/a.py', 'from mmext.models.common import layers', False),
        ('engine/a.py', 'from mmext.models.yolo import head', True),
        ('engine/a.py', 'def f():\n    from mmext.apis import init_model', True),
        ('engine/a.py', "import importlib\nimportlib.import_module('mmext.models')", True),
        ('datasets/a.py', 'from mmext.registry import DATASETS', False),
        ('datasets/a.py', 'from mmext.engine import dist', True),
        ('registry.py', 'from mmext.datasets import coco', True),
        ('apis/a.py', 'from mmext.models.yolo import head\nfrom mmext.engine import dist', False),
        ('apis/a.py', 'from mmext.tools import train', True),
        ('tools/a.py', 'from mmext.apis import init_model', False),
        ('tools/a.py', 'from tests import tiny', True),
        ('datasets/a.py', 'import torch', False),
    ],
)
def test_broken_arrows__sees_what_it_should(tmp_path, file, code, broken):
    for folder in ('models/yolo', 'models/deim', 'models/common', 'engine', 'datasets', 'apis'):
        (tmp_path / 'mmext' / folder).mkdir(parents=True)
    path = tmp_path / 'mmext' / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert bool(broken_arrows(tmp_path)) is broken


def test_models__only_adapters_speak_the_language_of_the_framework():
    assert strange_adapters(ROOT) == []


@pytest.mark.parametrize(
    ('file', 'code', 'strange'),
    [
        ('yolo/a.py', 'from mmdet.models import BaseDenseHead\nclass A(BaseDenseHead): ...', True),
        ('yolo/head.py', 'from mmdet.models import BaseHead\nclass A(BaseHead): ...', False),
        ('deim/head.py', 'from mmdet.models import BaseHead\nclass A(BaseHead): ...', True),
        ('yolo/a.py', 'import mmseg.models as zoo\nclass A(zoo.BaseHead): ...', True),
        ('yolo/a.py', 'import mmdet.models\nclass A(mmdet.models.BaseHead): ...', True),
        ('yolo/a.py', 'from mmext.models.yolo.head import Head\nclass A(Head): ...', True),
        ('yolo/a.py', 'from .head import Head\nclass A(Head): ...', True),
        ('yolo/a.py', 'from . import head\nclass A(head.Head): ...', True),
        ('yolo/a.py', 'from .head import Head\nclass A:\n    head: Head', False),
        ('yolo/a.py', 'from mmdet.models.layers import MLP\nmlp = MLP(1, 2)', False),
        ('yolo/a.py', 'from torch import nn\nclass A(nn.Module): ...', False),
        ('yolo/a.py', 'from mmdet.structures import DetDataSample', True),
        ('yolo/a.py', 'from mmdet import structures', True),
        ('yolo/a.py', 'from mmseg.structures.seg_data_sample import SegDataSample', True),
        ('yolo/a.py', 'def f():\n    from mmengine.structures import InstanceData', True),
        ('yolo/truth.py', 'from mmengine.structures import InstanceData', False),
        ('yolo/a.py', 'import mmdet.structures.det_data_sample', True),
        ('yolo/a.py', 'from mmdet.structures.mask import BitmapMasks', False),
        ('yolo/a.py', 'from mmdet.structures import mask', False),
        ('common/a.py', 'from mmengine.structures import InstanceData', True),
        ('common/instance_tta.py', 'from mmdet.structures import DetDataSample', False),
    ],
)
def test_strange_adapters__sees_what_it_should(tmp_path, file, code, strange):
    path = tmp_path / 'mmext' / 'models' / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert bool(strange_adapters(tmp_path)) is strange


def test_files__are_short_and_named_for_a_subject():
    long, badly_named = [], []
    for path in source_files('mmext', 'tools'):
        name = path.relative_to(ROOT).as_posix()
        if len(path.read_text(encoding='utf-8').splitlines()) > MAX_FILE_LINES:
            long.append(name)
        if name not in ALLOWED_NAMES and (
            path.name in FORBIDDEN_NAMES or path.stem.endswith('_v2')
        ):
            badly_named.append(name)
    assert (long, badly_named) == ([], [])


def test_functions__are_short():
    long = []
    for path in source_files('mmext', 'tools'):
        for node in nodes(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if _body_lines(node) > MAX_FUNCTION_LINES:
                    long.append(f'{path.relative_to(ROOT)}:{node.lineno} {node.name}')
    assert long == []


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
