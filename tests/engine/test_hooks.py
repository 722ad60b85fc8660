"""Averaged weights, validation losses, memory format, seeds and the switch of pipelines."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.engine.hooks import PipelineSwitchHook
from mmdet.models.layers import ExpMomentumEMA
from mmengine.optim import OptimWrapper
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmext.engine.hooks import ChannelsLastHook, ReproducibleHook, StepEMAHook
from mmext.engine.hooks.reproducible import clear_caches, seed_everything


def test_step_ema__one_update_per_optimizer_step() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 7)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, iter=0, epoch=0)
    hook = StepEMAHook(ema_type=ExpMomentumEMA, momentum=0.1, gamma=10)
    hook.before_run(runner)
    steps = []
    for step in range(7):
        runner.iter = step
        wrapper.update_params(model(torch.ones(1, 1)).sum())
        hook.after_train_iter(runner, step)
        steps.append(int(hook.ema_model.steps))
    # Steps after iterations 3, 6 and, because it is the last, 7.
    assert steps == [0, 0, 1, 1, 1, 2, 3]
    # Weights 0, -1, -2 after the steps; the first is copied, then lerp with (1 - m) exp(-(1 + t) / gamma) + m.
    average = 0.0
    for t, weight in ((1, -1.0), (2, -2.0)):
        momentum = 0.9 * np.exp(-(1 + t) / 10) + 0.1
        average += momentum * (weight - average)
    assert hook.ema_model.module.weight.item() == pytest.approx(average, rel=1e-6)


def test_step_ema__published_horizon_of_deim() -> None:
    """Parameters and float buffers with decay 0.9999 (1 - exp(-u / 1000)) at update u, after a first copy."""
    model = nn.BatchNorm1d(2)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, iter=0, epoch=0)
    hook = StepEMAHook(ema_type=ExpMomentumEMA, momentum=1e-4, gamma=1000, update_buffers=True)
    hook.before_run(runner)
    generator = torch.Generator().manual_seed(0)
    expected: dict[str, torch.Tensor] = {}
    for update in range(1, 40):
        wrapper.update_params(model(torch.rand(4, 2, generator=generator)).square().sum())
        hook.after_train_iter(runner, update - 1)
        decay = 0.9999 * (1 - np.exp(-update / 1000)) if update > 1 else 0.0
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                before = expected.get(name, torch.zeros(()))
                expected[name] = decay * before + (1 - decay) * value.double()
    averages = hook.ema_model.module.state_dict()
    assert sorted(expected) == ['bias', 'running_mean', 'running_var', 'weight']
    for name, value in expected.items():
        torch.testing.assert_close(averages[name].double(), value, rtol=1e-5, atol=1e-6)


def test_channels_last__same_result_in_another_format() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    images = torch.rand(2, 3, 16, 16)
    before = model(images)
    ChannelsLastHook().before_run(SimpleNamespace(model=model))
    after = model(images)
    assert after.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(after, before)


class RandomSamples(Dataset):
    """Each sample: its index and one draw from each of the three generators."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def draw_epochs(first_epoch: int, num_workers: int, persistent: bool) -> list[list]:
    """The samples of each epoch from `first_epoch` to 2, from a fresh loader."""
    loader = DataLoader(
        RandomSamples(),
        num_workers=num_workers,
        persistent_workers=persistent,
        collate_fn=list,
        worker_init_fn=lambda worker: seed_everything(99),
    )
    runner = SimpleNamespace(train_dataloader=loader, seed=5, rank=0, train_loop=None)
    hook = ReproducibleHook()
    hook.before_train(runner)
    epochs = []
    for epoch in range(first_epoch, 3):
        runner.epoch = epoch
        hook.before_train_epoch(runner)
        epochs.append([sample for batch in loader for sample in batch])
    return epochs


@pytest.mark.parametrize(
    ('num_workers', 'persistent'),
    [(0, False), (2, False), (2, True)],
    ids=['no workers', 'workers', 'persistent workers'],
)
def test_reproducible__resumed_epochs_draw_the_same_numbers(
    num_workers: int, persistent: bool
) -> None:
    whole = draw_epochs(0, num_workers, persistent)
    seed_everything(1234)  # another state than at the start of the whole run
    assert draw_epochs(1, num_workers, persistent) == whole[1:]
    assert whole[0] != whole[1]
    draws = [value for epoch in whole for sample in epoch for value in sample[1:]]
    assert len(set(draws)) == len(draws)


def test_reproducible__ranks_differ() -> None:
    draws = []
    for rank in (0, 1):
        seed_everything(5, 0, rank, 0)
        draws.append(torch.rand(3).tolist())
    assert draws[0] != draws[1]


def test_clear_caches__in_wrapped_data_sets() -> None:
    cached = SimpleNamespace(results_cache=[1, 2])
    inner = SimpleNamespace(pipeline=SimpleNamespace(transforms=[cached]))
    outer = SimpleNamespace(dataset=inner, pipeline=[SimpleNamespace(results_cache=[3])])
    clear_caches(outer)
    assert cached.results_cache == []
    assert outer.pipeline[0].results_cache == []


class Piped(Dataset):
    """Applies its pipeline to the index."""

    def __init__(self) -> None:
        self.pipeline = lambda index: ('mosaic', index)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple:
        return self.pipeline(index)


class Plain:
    """The pipeline of the last epochs."""

    def __call__(self, index: int) -> tuple:
        return 'plain', index


@pytest.mark.parametrize('with_seeds', [False, True], ids=['alone', 'with ReproducibleHook'])
def test_pipeline_switch__reaches_persistent_workers(with_seeds: bool) -> None:
    loader = DataLoader(
        Piped(), num_workers=1, persistent_workers=True, collate_fn=lambda batch: batch[0]
    )
    runner = SimpleNamespace(
        train_dataloader=loader, seed=0, rank=0, train_loop=None, logger=SimpleNamespace(info=print)
    )
    hooks = [ReproducibleHook()] if with_seeds else []
    for hook in hooks:
        hook.before_train(runner)
    hooks.append(PipelineSwitchHook(switch_epoch=2, switch_pipeline=[Plain()]))
    seen = []
    for epoch in range(4):
        runner.epoch = epoch
        for hook in hooks:
            hook.before_train_epoch(runner)
        seen.append([kind for kind, _ in loader])
    assert seen == [['mosaic'] * 2, ['mosaic'] * 2, ['plain'] * 2, ['plain'] * 2]
