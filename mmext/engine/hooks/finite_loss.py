"""Losses and gradients that are no numbers."""

import math
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.registry import HOOKS

GRADIENT = 'grad_norm'


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a training whose loss, or norm of the gradient, is infinite or not a number, and names it.

    Looks at the numbers that mmengine has logged for this iteration anyway, so that nothing waits for the device. The
    norm of the gradient is among them where `optim_wrapper.clip_grad` is set; it also finds what a
    criterion hides by replacing a loss that is not a number.

    A gradient scaler (AmpOptimWrapper) skips a step whose gradient overflowed and tries again with a smaller scale.
    There a few such iterations in a row are nothing unusual. Without one the first has spoilt the weights.

    Args:
        num_scaled: broken iterations in a row that are survived where there is a gradient scaler.

    Raises:
        ValueError: `num_scaled` is negative; or in training, see above.
    """

    # After RuntimeInfoHook has logged the losses, before EMAHook averages and CheckpointHook saves the weights.
    priority = 'HIGH'

    def __init__(self, num_scaled: int = 10) -> None:
        if num_scaled < 0:
            raise ValueError(
                f'FiniteLossHook: got num_scaled={num_scaled}; expected a number of iterations of at least 0'
            )
        self.num_scaled = num_scaled
        self._num_broken = 0

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Looks at the iteration just made."""
        # While gradients accumulate, the logged norm is an old one.
        names = ['loss', GRADIENT] if runner.optim_wrapper.should_update() else ['loss']
        if not _broken(runner, names):
            self._num_broken = 0
            return
        self._num_broken += 1
        has_scaler = hasattr(runner.optim_wrapper, 'loss_scaler')
        if self._num_broken <= (self.num_scaled if has_scaler else 0):
            return
        broken = _broken(runner, dict.fromkeys([*(outputs or ()), *names]))
        row = (
            f', as in the {self._num_broken - 1} iterations before' if self._num_broken > 1 else ''
        )
        raise ValueError(
            f'training stopped at iteration {runner.iter + 1} (epoch {runner.epoch + 1}): '
            f'{", ".join(f"{name}={value}" for name, value in broken.items())}{row}. Lower the learning rate, lengthen '
            'the warm-up, clip the gradients, or train in bfloat16 or float32; if it is the first iteration, check '
            'the pretrained weights. Resume from the last checkpoint.'
        )


def _broken(runner: Runner, names: Any) -> dict[str, float]:
    """The logged values of this iteration that are infinite or not a number."""
    histories = runner.message_hub.log_scalars
    values = {
        name: histories[f'train/{name}'].current() for name in names if f'train/{name}' in histories
    }
    return {name: float(value) for name, value in values.items() if not math.isfinite(value)}
