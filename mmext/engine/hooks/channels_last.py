"""Memory format of convolutional models."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Stores the kernels channels-last, which convolutions on the CPU and on tensor cores prefer.

    A convolution with such a kernel converts its input and answers in the same format, so the inputs need no
    care. Runs before EMAHook copies the model. With data-parallel training the gradient buckets were laid
    out before, and torch warns about their strides once; the result is the same.
    """

    priority = 'HIGHEST'

    def before_run(self, runner: Runner) -> None:
        """Converts the model."""
        runner.model.to(memory_format=torch.channels_last)
