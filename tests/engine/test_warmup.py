"""Warm-up against the ramp worked out by hand, alone and over mmengine's schedulers."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import LinearLR, OptimWrapper

from mmext.engine.hooks import YOLOWarmupHook

EPOCH_ITERS = 5


def make_runner(optimizer_type: type, **options: float | bool | tuple) -> SimpleNamespace:
    """The part of a Runner that the hook sees, with the groups 'weight' and 'bias'."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    groups = [
        dict(params=[p], role=role) for p, role in zip(parameters, ('weight', 'bias'), strict=True)
    ]
    wrapper = OptimWrapper(optimizer_type(groups, **options))
    return SimpleNamespace(iter=0, train_dataloader=range(EPOCH_ITERS), optim_wrapper=wrapper)


def values(runner: SimpleNamespace, key: str) -> dict:
    return {group['role']: group[key] for group in runner.optim_wrapper.optimizer.param_groups}


@pytest.mark.parametrize(
    ('step', 'weight_lr', 'bias_lr', 'momentum'),
    [(0, 0.0, 0.1, 0.8), (5, 0.005, 0.055, 0.85), (9, 0.009, 0.019, 0.89), (10, 0.01, 0.01, 0.9)],
    ids=['start', 'middle', 'last', 'after'],
)
def test_warmup__sgd_follows_the_ramp(
    step: int, weight_lr: float, bias_lr: float, momentum: float
) -> None:
    runner = make_runner(torch.optim.SGD, lr=0.01, momentum=0.9)
    hook = YOLOWarmupHook(warmup_epochs=2, min_iters=0)
    hook.before_train(runner)
    runner.iter = step
    hook.before_train_iter(runner, step)
    assert values(runner, 'lr') == pytest.approx({'weight': weight_lr, 'bias': bias_lr})
    assert values(runner, 'momentum') == pytest.approx({'weight': momentum, 'bias': momentum})
    hook.after_train_iter(runner, step)
    assert values(runner, 'lr') == {'weight': 0.01, 'bias': 0.01}
    assert values(runner, 'momentum') == {'weight': 0.9, 'bias': 0.9}


def test_warmup__adam_raises_the_first_beta() -> None:
    runner = make_runner(torch.optim.AdamW, lr=0.01, betas=(0.9, 0.999))
    hook = YOLOWarmupHook(warmup_epochs=0, min_iters=10)
    hook.before_train(runner)
    runner.iter = 5
    hook.before_train_iter(runner, 5)
    assert values(runner, 'betas')['weight'] == pytest.approx((0.85, 0.999))
    hook.after_train_iter(runner, 5)
    assert values(runner, 'betas')['weight'] == (0.9, 0.999)


def test_warmup__length_is_the_longer_of_epochs_and_iterations() -> None:
    runner = make_runner(torch.optim.SGD, lr=0.01)
    for epochs, iters, expected in ((2, 3, 10), (2, 30, 30), (0.5, 1, 2)):
        hook = YOLOWarmupHook(warmup_epochs=epochs, min_iters=iters)
        hook.before_train(runner)
        assert hook.num_iters == expected


def test_warmup__leaves_the_schedule_as_it_is() -> None:
    def rates(hooks: list[YOLOWarmupHook], first_iter: int = 0) -> list[float]:
        runner = make_runner(torch.optim.SGD, lr=0.01, momentum=0.9)
        scheduler = LinearLR(runner.optim_wrapper, start_factor=1.0, end_factor=0.01, end=5)
        for hook in hooks:
            hook.before_train(runner)
        used = []
        for step in range(6 * EPOCH_ITERS):
            runner.iter = step
            for hook in hooks:
                hook.before_train_iter(runner, step)
            used.append(values(runner, 'lr')['weight'])
            runner.optim_wrapper.step()
            for hook in hooks:
                hook.after_train_iter(runner, step)
            if (step + 1) % EPOCH_ITERS == 0:
                scheduler.step()
        return used

    plain = rates([])
    warmed = rates([YOLOWarmupHook(warmup_epochs=2, min_iters=0)])
    assert warmed[10:] == plain[10:]
    # During warm-up the rate aims at the scheduled value of its own epoch.
    assert warmed[:10] == pytest.approx([plain[i] * i / 10 for i in range(10)])


def test_warmup__warns_without_a_bias_group() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([parameter], lr=0.1))
    runner = SimpleNamespace(iter=0, train_dataloader=range(5), optim_wrapper=wrapper)
    messages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'mmext.engine.hooks.warmup.print_log', lambda text, *_, **__: messages.append(text)
        )
        YOLOWarmupHook().before_train(runner)
    assert len(messages) == 1
    assert 'YOLOOptimWrapperConstructor' in messages[0]


@pytest.mark.parametrize(
    'options',
    [
        dict(warmup_epochs=-1),
        dict(warmup_epochs=0, min_iters=0),
        dict(bias_lr=-0.1),
        dict(momentum=1.0),
    ],
    ids=['negative', 'no length', 'bias', 'momentum'],
)
def test_warmup__bad_settings(options: dict) -> None:
    with pytest.raises(ValueError, match='YOLOWarmupHook needs'):
        YOLOWarmupHook(**options)
