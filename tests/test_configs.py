"""Every shipped config: it says what it is, parses, names only what exists, builds, and survives a dump.

The configs are found, not listed: a new file below configs/ is tested by being there.
"""

import ast
import functools
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

from mmext.engine.preflight_recipe import Length, check_lengths
from mmext.registry import UnknownNameError

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
PATHS = sorted(
    path
    for path in CONFIGS.rglob('*.py')
    if not any(part.startswith('_') for part in path.relative_to(CONFIGS).parts)
)
KINDS = [value for value in vars(root).values() if isinstance(value, Registry)]
NAME = re.compile(r'[a-z0-9]+(-[a-z0-9]+)*_[\w.-]+_\d+xb\d+-\d+(e|k)_[\w-]+(\.py)')
# DEIMv2's go by size and data, as the published ones do.
SIZE_NAME = re.compile(r'deimv2_[a-z]+(_\d+xb\d+)?_[a-z-]+(\.py)')
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
        if value.get('type') == 'mmext.Albumentations':
            return  # its transforms are classes of that library
        for name, child in value.items():
            yield from typed(child, name)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from typed(child, key)


@functools.cache  # A name that is unknown to a kind costs that kind a search for similar ones.
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
    assert NAME.fullmatch(path.name) or SIZE_NAME.fullmatch(path.name), (
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
    hooks = [*cfg.custom_hooks, *cfg.default_hooks.values()]
    types = [hook['type'] for hook in hooks if hook is not None]
    # By any train script: wrong data sets stop, and checkpoints are read safely and with a report.
    assert {'mmext.PreflightHook', 'mmext.CheckpointReportHook'} <= set(types)
    # A loss summed over the batch brings its own scaling: a rate that grows too would do it twice.
    is_summed = cfg.model.get('bbox_head', {}).get('loss_scale') == 'batch'
    assert ('auto_scale_lr' in cfg) != is_summed
    assert is_summed or cfg.auto_scale_lr.base_batch_size > 0


@every_config
def test_config__averages_warms_up_and_closes_its_mosaic(path, parsed):
    cfg = parsed[path]
    hooks = [hook['type'] for hook in cfg.custom_hooks]
    # The baselines of mmdet train as mmdet's do, without an average; the mission's localizer has no schedule either.
    is_literal = cfg.model.get('head', {}).get('type') == 'mmext.LocalizerHead'
    is_baseline = cfg.model.type in ('FasterRCNN', 'MaskRCNN') or is_literal
    averages = [] if is_baseline else ['mmext.StepEMAHook']
    assert [hook for hook in hooks if hook.endswith('EMAHook')] == averages
    ramps = [
        scheduler
        for scheduler in cfg.param_scheduler
        # In mmengine a LinearLR starts at a third, ends at the full rate and counts epochs, unless told otherwise.
        if scheduler['type'] == 'LinearLR'
        and not scheduler.get('by_epoch', True)
        and scheduler.get('begin', 0) == 0
        and scheduler.get('start_factor', 1 / 3) < scheduler.get('end_factor', 1.0) == 1.0
    ]
    ramps += [
        scheduler for scheduler in cfg.param_scheduler if scheduler['type'] == 'mmext.FlatCosineLR'
    ]
    assert ramps or is_literal or 'mmext.YOLOWarmupHook' in hooks
    transforms = [part['type'] for _, part in typed(cfg.train_dataloader.to_dict())]
    assert ('mmext.CloseMosaicHook' in hooks) == ('mmext.Mosaic' in transforms)


@every_config
def test_config__batch_and_epochs_are_those_of_its_name(path, parsed):
    cfg = parsed[path]
    if batch := re.search(r'_\d+xb(\d+)[-_]', path.name):
        assert cfg.train_dataloader.batch_size == int(batch[1])
    if epochs := re.search(r'-(\d+)e_', path.name):
        assert cfg.train_cfg.max_epochs == int(epochs[1])
    if iterations := re.search(r'-(\d+)k_', path.name):
        assert cfg.train_cfg.max_iters == 1000 * int(iterations[1])
    trained = re.search(r'work_dirs/\S*/epoch_(\d+)\.pth', path.read_text(encoding='utf-8'))
    assert trained is None or cfg.train_cfg.max_epochs == int(trained[1])


@every_config
def test_config__what_changes_with_the_epochs_is_told_them(path, parsed):
    cfg = parsed[path]
    hooks = {hook['type']: hook for hook in cfg.custom_hooks}
    windows = [part['epochs'] for _, part in typed(cfg.to_dict()) if 'epochs' in part]
    assert not windows or 'mmext.EpochWindowsHook' in hooks
    assert all(begin < end <= cfg.train_cfg.max_epochs for begin, end in windows)
    if criterion := cfg.model.get('criterion'):
        assert 'mmdet.SetEpochInfoHook' in hooks
        assert criterion.matcher.change_epoch < cfg.train_cfg.max_epochs
    if stage_two := hooks.get('mmext.StageTwoHook'):
        # Not one of them goes on in the stage without augmentation.
        assert max(end for _, end in windows) <= stage_two['stop_epoch'] < cfg.train_cfg.max_epochs


@every_config
def test_config__preflight_finds_that_its_recipe_fits_its_length(path, parsed):
    cfg = parsed[path]
    epochs, iterations = (cfg.train_cfg.get(f'max_{unit}') for unit in ('epochs', 'iters'))
    assert check_lengths(cfg, Length(epochs, iterations or epochs * 160)) == []


@every_config
def test_config__every_type_resolves(path, parsed):
    cfg = parsed[path]
    ops = importlib.import_module('mmcv.ops')
    unknown = set()
    for key, part in typed(cfg.to_dict()):
        name = part['type']
        # These are looked up in mmcv.ops, not in a registry.
        is_op = key in ('nms', 'roi_layer')
        known = hasattr(ops, name) if is_op else resolves(name, cfg.default_scope)
        if not known:
            unknown.add(name)
    assert unknown == set()


def build_device(cfg: Config) -> torch.device:
    """Where a config's model can be built: mmdet's EfficientNet reads values of tensors meanwhile."""
    return torch.device('cpu' if cfg.model.backbone.type == 'EfficientNet' else 'meta')


def build(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Build a config's model; returns the shapes of its state.

    On the meta device no weight is drawn, so that even the largest model takes a second.
    """
    with DefaultScope.overwrite_default_scope(cfg.default_scope), build_device(cfg):
        model = root.MODELS.build(cfg.model)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@every_config
def test_config__builds_its_model(path, parsed):
    assert len(build(parsed[path])) > 0


@every_config
@pytest.mark.slow
def test_config__dump_reads_back_the_same_and_rebuilds(
    path, parsed, tmp_path, yapf_format, monkeypatch
):
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', yapf_format)
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
    with DefaultScope.overwrite_default_scope(cfg.default_scope), build_device(cfg):
        model = get_model(f'mmext::{path.relative_to(CONFIGS).as_posix()}')
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == build(cfg)
