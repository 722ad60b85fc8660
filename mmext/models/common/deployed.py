"""The deploy form of an encoder and a head: copies of both whose batch norms are part of the convolutions before them.

See `mmext.models.common.folding` for what folding is and keeps.
"""

import copy
from typing import Any

from mmcv.cnn import fuse_conv_bn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmext.models.common.folding import refuse_training


class DeployedNetwork(nn.Module):
    """Backbone, neck and head for inference only; no part of the state dict, and without parameters.

    Args:
        backbone: images (N, 3, H, W) to maps. All three are copied.
        neck: maps to maps, or None.
        head: maps to its outputs.
    """

    backbone: nn.Module
    neck: nn.Module | None
    head: nn.Module

    def __init__(self, backbone: nn.Module, neck: nn.Module | None, head: nn.Module) -> None:
        super().__init__()
        for name, part in (('backbone', backbone), ('neck', neck), ('head', head)):
            setattr(
                self, name, None if part is None else _frozen(fuse_conv_bn(copy.deepcopy(part)))
            )
        self.training = False

    def forward(self, inputs: Tensor) -> Any:
        """Images (N, 3, H, W) to what the head gives."""
        features = self.backbone(inputs)
        return self.head(features if self.neck is None else self.neck(features))

    def train(self, mode: bool = True) -> 'DeployedNetwork':
        """Stay in eval mode.

        Raises:
            ValueError: `mode` is True; the folded kernels would not follow the parameters.
        """
        refuse_training(mode)
        return self


def _frozen(network: nn.Module) -> nn.Module:
    """The network with buffers instead of parameters, none of them in the state dict; they follow `to()`."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)
        module._non_persistent_buffers_set.update(module._buffers)
        # Blocks that fold themselves would do so again once weights are loaded; their norms are gone by now.
        module._load_state_dict_post_hooks.clear()
        module.training = False  # of what stands for the norms
        if isinstance(module, _BatchNorm):
            # Of those that stand behind no convolution: else torch puts their counters into state dicts without versions.
            module.track_running_stats = False
    return network
