"""FiniteLossHook in small runs whose loss breaks at a known step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmext.engine.hooks import FiniteLossHook


class Breaking(BaseModel):
    """Two losses; the second is the number in the data times the weight. `hides` puts 0 for what is not a number."""

    def __init__(self, hides: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.hides = hides

    def forward(self, value: float, mode: str = 'tensor') -> dict[str, torch.Tensor]:
        broken = self.weight * value
        if self.hides:
            broken = broken.nan_to_num(nan=0.0)
        return dict(loss_box=self.weight.square(), loss_mask=broken)


class SkippingOptimWrapper(OptimWrapper):
    """Skips steps whose gradient is not finite, as a gradient scaler does."""

    loss_scaler = 'scaler'

    def step(self, **kwargs: Any) -> None:
        self._clip_grad()
        (parameter,) = self.optimizer.param_groups[0]['params']
        if parameter.grad.isfinite():
            self.optimizer.step(**kwargs)


def train(
    work_dir: Path,
    values: list[float],
    *,
    wrapper: type[OptimWrapper] = OptimWrapper,
    hides: bool = False,
    num_scaled: int = 2,
    accumulative_counts: int = 1,
) -> Runner:
    """One step for each value, all in one epoch."""
    runner = Runner(
        model=Breaking(hides),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=values, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(
            type=wrapper,
            optimizer=dict(type='SGD', lr=0.01),
            accumulative_counts=accumulative_counts,
            clip_grad=dict(max_norm=1.0),
        ),
        custom_hooks=[FiniteLossHook(num_scaled)],
        experiment_name=work_dir.name,
        log_level='ERROR',
    )
    runner.train()
    return runner


NAN, INF = float('nan'), float('inf')


def test_finite_loss__names_iteration_and_loss(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        train(tmp_path, [1.0, 2.0, INF, 1.0])
    message = str(error.value)
    assert 'iteration 3 (epoch 1): loss=inf, loss_mask=inf, grad_norm=inf' in message
    assert 'loss_box' not in message and 'learning rate' in message


def test_finite_loss__a_hidden_one_is_found_by_its_gradient(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'iteration 2 \(epoch 1\): grad_norm=nan\.'):
        train(tmp_path, [1.0, NAN, 1.0], hides=True)


def test_finite_loss__a_scaler_survives_a_few_in_a_row(tmp_path: Path) -> None:
    values = [INF, INF, 1.0, INF, INF, 1.0]
    runner = train(tmp_path, values, wrapper=SkippingOptimWrapper)
    assert runner.iter == 6
    assert runner.model.weight.isfinite()


def test_finite_loss__a_scaler_does_not_survive_more(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='iteration 4 .* as in the 2 iterations before'):
        train(tmp_path, [1.0, INF, INF, INF], wrapper=SkippingOptimWrapper)


def test_finite_loss__while_gradients_accumulate_the_old_norm_does_not_count(
    tmp_path: Path,
) -> None:
    # The norm is broken at the steps 2 and 4, and still the logged one at the steps 3 and 5.
    values = [INF, 1.0, 1.0, INF, 1.0, 1.0]
    runner = train(tmp_path, values, wrapper=SkippingOptimWrapper, accumulative_counts=2)
    assert runner.iter == 6


def test_finite_loss__negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match='num_scaled=-1'):
        FiniteLossHook(num_scaled=-1)
