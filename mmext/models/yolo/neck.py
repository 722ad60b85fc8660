"""Path-aggregation neck of YOLO v8 and v11 (PANet, https://arxiv.org/abs/1803.01534).

Unlike mmdet's `YOLOXPAFPN` it has no 1x1 convolutions that reduce the channels before a
concatenation.

Shapes: B batch, C channels; P3, P4, P5 are the maps at strides 8, 16, 32.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.models.common.layers import (
    ACT_CFG,
    NORM_CFG,
    C2f,
    C3k2,
    ConvNormAct,
    scale_depth,
)
from mmext.registry import MODELS

NUM_BLOCKS = {'v8': 3, 'v11': 2}
# Width of P3 at `widen_factor` 1: from here on (sizes m, l, x) all blocks of v11 have C3k inside.
C3K_CHANNELS = 256


@MODELS.register_module()
class CSPPAN(BaseModule):
    """Top-down, then bottom-up fusion of three maps with C2f (v8, no shortcuts) or C3k2 (v11).

    Args:
        version: 'v8' or 'v11'.
        in_channels: Channels of P3, P4, P5 from the backbone.
        out_channels: Channels of P3, P4, P5 of the neck. In v11 the last block has C3k blocks
            inside, and all of them have from 256 channels at P3 on (sizes m, l, x).
        deepen_factor: Multiplies the number of inner blocks.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
        init_cfg: mmengine init config.

    Raises:
        ValueError: Unknown version, not three levels.
    """

    def __init__(
        self,
        version: str = 'v8',
        in_channels: Sequence[int] = (64, 128, 256),
        *,
        out_channels: Sequence[int] = (64, 128, 256),
        deepen_factor: float = 1.0,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_arguments(version, in_channels, out_channels)
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(out_channels)
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        num_blocks = scale_depth(NUM_BLOCKS[version], deepen_factor)
        small_inner = 'c3k' if out_channels[0] >= C3K_CHANNELS else 'bottleneck'

        def block(in_channels: int, out_channels: int, inner: str) -> nn.Module:
            channels = (in_channels, out_channels)
            if version == 'v8':
                return C2f(*channels, num_blocks=num_blocks, add_identity=False, **layer_cfg)
            return C3k2(*channels, num_blocks=num_blocks, inner=inner, **layer_cfg)

        def down(channels: int) -> nn.Module:
            return ConvNormAct(channels, channels, kernel_size=3, stride=2, **layer_cfg)

        in3, in4, in5 = in_channels
        out3, out4, out5 = out_channels
        self.top_down_blocks = nn.ModuleList(
            [block(in5 + in4, out4, small_inner), block(out4 + in3, out3, small_inner)]
        )
        self.downsamples = nn.ModuleList([down(out3), down(out4)])
        self.bottom_up_blocks = nn.ModuleList(
            [block(out3 + out4, out4, small_inner), block(out4 + in5, out5, 'c3k')]
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse the maps of the backbone.

        Args:
            inputs: P3, P4, P5, each (B, in_channels, H, W).

        Returns:
            P3, P4, P5, each (B, out_channels, H, W), at the sizes of the inputs.
        """
        backbone3, backbone4, backbone5 = inputs
        middle4 = self.top_down_blocks[0](_upsample_and_join(backbone5, backbone4))
        out3 = self.top_down_blocks[1](_upsample_and_join(middle4, backbone3))
        out4 = self.bottom_up_blocks[0](torch.cat((self.downsamples[0](out3), middle4), dim=1))
        out5 = self.bottom_up_blocks[1](torch.cat((self.downsamples[1](out4), backbone5), dim=1))
        return out3, out4, out5


def _upsample_and_join(small: Tensor, large: Tensor) -> Tensor:
    """Nearest-neighbour upsampling of `small` to the size of `large`, channels concatenated."""
    upsampled = F.interpolate(small, size=large.shape[-2:], mode='nearest')
    return torch.cat((upsampled, large), dim=1)


def _check_arguments(version: str, in_channels: Sequence[int], out_channels: Sequence[int]) -> None:
    if version not in NUM_BLOCKS:
        raise ValueError(f'CSPPAN: unknown version {version!r}, choose from {list(NUM_BLOCKS)}')
    for name, channels in (('in_channels', in_channels), ('out_channels', out_channels)):
        if len(channels) != 3:
            raise ValueError(
                f'CSPPAN: {name} must have three entries, for strides 8, 16 and 32, got {channels}'
            )
