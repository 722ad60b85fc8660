"""Averaged weights that count optimizer steps."""

from typing import Any

from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from mmext.registry import HOOKS


@HOOKS.register_module()
class StepEMAHook(EMAHook):
    """mmengine's EMAHook, updated once per optimizer step.

    The parent updates after every iteration. With gradient accumulation that averages unchanged weights
    several times and shortens both the horizon and the start-up of the average.
    """

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Updates the average if the iteration ended with a step."""
        # The wrapper counted this iteration already: the answer is about the step just made.
        if runner.optim_wrapper.should_update():
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
