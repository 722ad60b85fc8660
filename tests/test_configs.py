"""Every shipped config: it says what it is, parses, names only what exists, builds, and survives a dump.

The configs are found, not listed: a new file below configs/ is tested by being there.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import mmengine.registry as root
import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_model
from mmengine.registry import DefaultScope, Registry

from mmext.registry import UnknownNameError

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
PATHS = sorted(
    path
    for path in CONFIGS.rglob('*.py')
    if not any(part.startswith('_') for part in path.relative_to(CONFIGS).parts)
)
KINDS = [value for value in vars(root).values() if isinstance(value, Registry)]
NAME = re.compile(r'[a-z0-9]+(-[a-z0-9]+)*_[\w.-]+_\d+xb\d+-\d+(e|k)_[\w-]+(\.py)')
REQUIRED = (
    'model train_dataloader val_dataloader test_dataloader val_evaluator test_evaluator train_cfg val_cfg '
    'test_cfg optim_wrapper param_scheduler default_hooks custom_hooks env_cfg visualizer log_level'
).split()
# The loop breaks without these: no schedule, no file, shuffling that repeats itself.
REQUIRED_HOOKS = ('timer', 'logger', 'param_scheduler', 'checkpoint', 'sampler_seed')

every_config = pytest.mark.parametrize(
    'path', PATHS, ids=[str(path.relative_to(CONFIGS)) for path in PATHS]
)


@pytest.fixture(scope='module')
def parsed():
    """Parsed configs by path; a test that changes one works on a copy."""
    return {path: Config.fromfile(path) for path in PATHS}


def typed(value: object, key: str = '') -> Iterator[tuple[str, dict]]:
    """Every dict with a `type`, with the key it stands under."""
    if isinstance(value, dict):
        if 'type' in value:
            yield key, value
        for name, child in value.items():
            yield from typed(child, name)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from typed(child, key)


def resolves(name: str, scope: str) -> bool:
    """Whether any kind of registry knows a name under a default scope."""
    importlib.import_module(f'{scope}.registry')
    with DefaultScope.overwrite_default_scope(scope):
        return any(knows(kind.children.get(scope, kind), name) for kind in KINDS)


def knows(registry: Registry, name: str) -> bool:
    """`name in registry`, which raises for an unknown 'mmext.X'."""
    try:
        return registry.get(name) is not None
    except UnknownNameError:
        return False


def test_configs__are_found():
    assert PATHS


@every_config
def test_config__name_and_docstring_tell_what_it_trains(path):
    assert NAME.fullmatch(path.name), (
        'expected <system>_<backbone>_<gpus>xb<batch>-<epochs>e_<data>.py'
    )
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    assert docstring and f'configs/{path.relative_to(CONFIGS)}' in docstring, (
        'the command is missing'
    )


@every_config
def test_config__has_all_that_a_run_needs(path, parsed):
    cfg = parsed[path]
    assert cfg.get('default_scope') in ('mmdet', 'mmseg')
    assert [key for key in REQUIRED if cfg.get(key) is None] == []
    assert [hook for hook in REQUIRED_HOOKS if not cfg.default_hooks.get(hook)] == []
    assert 'mmext.PreflightHook' in [hook['type'] for hook in cfg.custom_hooks]
    # A loss summed over the batch brings its own scaling: a rate that grows too would do it twice.
    is_summed = cfg.model.bbox_head.get('loss_scale') == 'batch'
    assert ('auto_scale_lr' in cfg) != is_summed
    assert is_summed or cfg.auto_scale_lr.base_batch_size > 0


@every_config
def test_config__averages_warms_up_and_closes_its_mosaic(path, parsed):
    cfg = parsed[path]
    hooks = [hook['type'] for hook in cfg.custom_hooks]
    assert [hook for hook in hooks if hook.endswith('EMAHook')] == ['mmext.StepEMAHook']
    ramps = [
        scheduler
        for scheduler in cfg.param_scheduler
        # In mmengine a LinearLR starts at a third, ends at the full rate and counts epochs, unless told otherwise.
        if scheduler['type'] == 'LinearLR'
        and not scheduler.get('by_epoch', True)
        and scheduler.get('begin', 0) == 0
        and scheduler.get('start_factor', 1 / 3) < scheduler.get('end_factor', 1.0) == 1.0
    ]
    assert ramps or 'mmext.YOLOWarmupHook' in hooks
    transforms = [part['type'] for _, part in typed(cfg.train_dataloader.to_dict())]
    assert ('mmext.CloseMosaicHook' in hooks) == ('mmext.Mosaic' in transforms)


@every_config
def test_config__batch_and_epochs_are_those_of_its_name(path, parsed):
    cfg = parsed[path]
    batch, length, unit = re.search(r'_\d+xb(\d+)-(\d+)(e|k)_', path.name).groups()
    assert cfg.train_dataloader.batch_size == int(batch)
    if unit == 'e':
        assert cfg.train_cfg.max_epochs == int(length)
    else:
        assert cfg.train_cfg.max_iters == 1000 * int(length)


@every_config
def test_config__every_type_resolves(path, parsed):
    cfg = parsed[path]
    ops = importlib.import_module('mmcv.ops')
    unknown = set()
    for key, part in typed(cfg.to_dict()):
        name = part['type']
        # The suppression is looked up in mmcv.ops, not in a registry.
        known = hasattr(ops, name) if key == 'nms' else resolves(name, cfg.default_scope)
        if not known:
            unknown.add(name)
    assert unknown == set()


def build(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Build a config's model; returns the shapes of its state.

    On the meta device no weight is drawn, so that even the largest model takes a second.
    """
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = root.MODELS.build(cfg.model)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@every_config
def test_config__builds_its_model(path, parsed):
    assert len(build(parsed[path])) > 0


@every_config
@pytest.mark.slow
def test_config__dump_reads_back_the_same_and_rebuilds(path, parsed, tmp_path):
    cfg = parsed[path]
    cfg.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == cfg.to_dict()
    assert build(again) == build(cfg)


@every_config
@pytest.mark.slow
def test_config__inherited_by_name_is_the_same_model(path, parsed, tmp_path):
    foreign = tmp_path / 'foreign.py'
    foreign.write_text(f"_base_ = 'mmext::{path.relative_to(CONFIGS).as_posix()}'\n")
    assert build(Config.fromfile(foreign)) == build(parsed[path])


@every_config
@pytest.mark.slow
def test_config__mmengine_hub_builds_it(path, parsed):
    # The hub makes `mmext` the scope of the build; names without a prefix come from the scope around it.
    cfg = parsed[path]
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = get_model(f'mmext::{path.relative_to(CONFIGS).as_posix()}')
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == build(cfg)
