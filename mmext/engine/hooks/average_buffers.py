"""Statistics of norm layers that all processes share."""

from collections.abc import Iterator

import torch
from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmext.registry import HOOKS


@HOOKS.register_module()
class AverageBuffersHook(Hook):
    """Averages floating-point buffers over the processes at the end of an epoch and before validation.

    Without synchronized BatchNorm, which does not exist on the CPU, each process gathers the running
    statistics of its own images. Each would validate another model, and only the first one's is saved. Unlike
    mmengine's SyncBuffersHook this one includes the averaged model of EMAHook and leaves
    counters alone, whose mean is no integer. Changes nothing in a single process.
    """

    # Before validation swaps the averaged weights in, and before the checkpoint is written.
    priority = 'HIGH'

    def after_train_epoch(self, runner: Runner) -> None:
        """Averages at the end of an epoch."""
        all_reduce_params(list(self._buffers(runner)), op='mean')

    def before_val(self, runner: Runner) -> None:
        """Averages before validation, which in iteration-based training follows no epoch."""
        all_reduce_params(list(self._buffers(runner)), op='mean')

    def _buffers(self, runner: Runner) -> Iterator[torch.Tensor]:
        averaged = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        for model in (runner.model, *averaged):
            yield from (buffer for buffer in model.buffers() if buffer.is_floating_point())
