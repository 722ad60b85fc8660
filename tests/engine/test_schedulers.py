"""Learning rates of every iteration against the formula by hand, and through mmengine's ways of building."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn
from torch.optim import SGD

from mmext.engine.schedulers import FlatCosineLR

LENGTHS = dict(end=20, flat=10, no_aug=4, warmup=4, by_epoch=False)


def two_groups() -> SGD:
    return SGD(
        [{'params': [nn.Parameter(torch.zeros(1))], 'lr': lr} for lr in (1.0, 0.1)], momentum=0.9
    )


def run_schedule(scheduler: FlatCosineLR, num_iters: int) -> list[list[float]]:
    """Rates of all groups that each iteration trains with."""
    rates = []
    for _ in range(num_iters):
        rates.append([group['lr'] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


# Warm-up (t/4)^2, flat to 10, cosine over the 6 steps to 16, then half the base rate.
BY_HAND = [
    *[0.0, 0.0625, 0.25, 0.5625, 1.0],
    *[1.0] * 6,
    0.5 + 0.25 * (1 + math.sqrt(3) / 2),
    0.5 + 0.25 * 1.5,
    0.75,
    0.5 + 0.25 * 0.5,
    0.5 + 0.25 * (1 - math.sqrt(3) / 2),
    *[0.5] * 4,
]


def test_flat_cosine__equals_the_formula_by_hand() -> None:
    rates = run_schedule(FlatCosineLR(two_groups(), **LENGTHS), 20)
    torch.testing.assert_close(rates, [[rate, 0.1 * rate] for rate in BY_HAND])


def test_flat_cosine__lag_repeats_the_original() -> None:
    rates = run_schedule(FlatCosineLR(two_groups(), lag=True, **LENGTHS), 20)
    expected = [1 / 500, *BY_HAND[:-1]]
    assert rates[1] == [0, 0]
    torch.testing.assert_close(rates, [[rate, 0.1 * rate] for rate in expected])


def test_flat_cosine__gamma_of_one_is_constant_whatever_the_flat_length() -> None:
    lengths = LENGTHS | dict(flat=7800, gamma=1.0, warmup=0)
    rates = run_schedule(FlatCosineLR(two_groups(), **lengths), 20)
    torch.testing.assert_close(rates, [[1.0, 0.1]] * 20)


def test_flat_cosine__no_cosine_between_flat_and_end() -> None:
    lengths = LENGTHS | dict(flat=16)
    rates = run_schedule(FlatCosineLR(two_groups(), **lengths), 20)
    assert [rate for rate, _ in rates][14:] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]


def test_flat_cosine__built_from_epochs() -> None:
    optimizer = two_groups()
    config = dict(
        type='mmext.FlatCosineLR', flat=2.5, no_aug=1, warmup=4, convert_to_iter_based=True
    )
    # What the Runner adds: the training of 5 epochs of 4 iterations.
    scheduler = PARAM_SCHEDULERS.build(
        config | dict(end=5), default_args=dict(optimizer=optimizer, epoch_length=4)
    )
    rates = run_schedule(scheduler, 20)
    torch.testing.assert_close([rate for rate, _ in rates], BY_HAND)


def test_flat_cosine__resumes(tmp_path: Path) -> None:
    first = FlatCosineLR(two_groups(), **LENGTHS)
    run_schedule(first, 9)
    path = tmp_path / 'state.pth'
    torch.save([first.state_dict(), first.optimizer.state_dict()], path)
    state, optimizer_state = torch.load(path, weights_only=False)
    optimizer = two_groups()
    second = FlatCosineLR(optimizer, **LENGTHS)
    optimizer.load_state_dict(optimizer_state)
    second.load_state_dict(state)
    rates = run_schedule(second, 11)
    torch.testing.assert_close([rate for rate, _ in rates], BY_HAND[9:])


def test_flat_cosine__warm_up_longer_than_flat_is_said() -> None:
    with pytest.warns(UserWarning, match='longer than the flat part'):
        FlatCosineLR(two_groups(), **LENGTHS | dict(warmup=11))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(by_epoch=True), 'convert_to_iter_based=True'),
        (dict(flat=17), 'fit into it'),
        (dict(warmup=-1), 'at least 0'),
        (dict(gamma=1.5), 'gamma in'),
    ],
    ids=['epochs', 'too-long', 'negative', 'gamma'],
)
def test_flat_cosine__wrong_settings_are_explained(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlatCosineLR(two_groups(), **LENGTHS | change)
