"""The learning rates that a run of each shipped config would take, step by step, without the run."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import DefaultScope

import mmext  # noqa: F401
from mmext.registry import PARAM_SCHEDULERS

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[1] / 'configs').glob('*/*.py')
    if path.parent.name != '_base_'
)
STEPS = 30  # of an epoch: more than the ramps that end within the first one have
MAX_STEPS = 3000  # of runs that count no epochs: twice their ramp


def build(settings: dict, optimizer: OptimWrapper) -> _ParamScheduler:
    """As the Runner builds a scheduler."""
    settings = dict(settings)
    name = settings['type']
    if settings.pop('convert_to_iter_based', False):
        cls = PARAM_SCHEDULERS.get(name)
        settings.pop('type')
        return cls.build_iter_from_epoch(optimizer=optimizer, **settings, epoch_length=STEPS)
    return PARAM_SCHEDULERS.build(settings, default_args=dict(optimizer=optimizer))


def rates(cfg: Config) -> list[float]:
    """The rate of every step, in the order of mmengine's ParamSchedulerHook: a step's schedulers, then an epoch's."""
    base = cfg.optim_wrapper.optimizer.lr
    optimizer = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base))
    found = []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')):
        schedulers = [build(settings, optimizer) for settings in cfg.param_scheduler]
        length = cfg.train_cfg.get('max_epochs') or MAX_STEPS // STEPS
        for _ in range(min(length, 200)):
            for _ in range(STEPS):
                found.append(optimizer.param_groups[0]['lr'])
                [scheduler.step() for scheduler in schedulers if not scheduler.by_epoch]
            [scheduler.step() for scheduler in schedulers if scheduler.by_epoch]
    return found


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config__rate_ramps_up_to_the_optimizers_and_never_beyond(path):
    cfg = Config.fromfile(path)
    base = cfg.optim_wrapper.optimizer.lr
    found = rates(cfg)
    types = {scheduler.type for scheduler in cfg.param_scheduler}
    hooks = {hook.type for hook in cfg.custom_hooks}
    if types & {'LinearLR', 'mmext.FlatCosineLR'} and 'mmext.YOLOWarmupHook' not in hooks:
        assert found[0] <= 0.2 * base
    # Some ramps are longer than an epoch of so few steps.
    assert 0.2 * base < max(found) <= 1.001 * base
    assert min(found[1:]) > 0.0


@pytest.mark.parametrize(
    'path',
    [path for path in CONFIGS if 'CosineRestartLR' in path.read_text()],
    ids=lambda p: p.stem,
)
def test_config__restarts_return_to_the_full_rate(path):
    cfg = Config.fromfile(path)
    base = cfg.optim_wrapper.optimizer.lr
    found = rates(cfg)
    starts = [0]
    for period in cfg.param_scheduler[0].periods[:-1]:
        starts.append(starts[-1] + period)
    assert found[STEPS - 1] == pytest.approx(base)  # the ramp is over within the first epoch
    assert [found[epoch * STEPS] for epoch in starts[1:]] == pytest.approx(
        [base] * (len(starts) - 1)
    )
