"""Path-aggregation neck of YOLO v8 and v11 (PANet, https://arxiv.org/abs/1803.01534).

Unlike mmdet's `YOLOXPAFPN` it has no 1x1 convolutions that reduce the channels before a
concatenation.

Shapes: B batch, C channels; P2 .. P6 are the maps at strides 4, 8, 16, 32, 64.
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
# Levels of the published models (the first), with P2, with P6, and with both.
KNOWN_STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32, 64))
NUMBER_WORDS = {3: 'three', 4: 'four', 5: 'five'}


@MODELS.register_module()
class CSPPAN(BaseModule):
    """Top-down, then bottom-up fusion of 3 to 5 maps with C2f (v8, no shortcuts) or C3k2 (v11).

    Blocks stand in the order in which they run: `top_down_blocks` from the coarsest level to the
    finest, `downsamples` and `bottom_up_blocks` back.

    Args:
        version: 'v8' or 'v11'.
        in_channels: Channels of the backbone's maps, the finest first.
        out_channels: Channels of the neck's maps, the finest first. In v11 the last block has C3k
            blocks inside, and all of them have from 256 channels at P3 on (sizes m, l, x).
        strides: Pixels of the image per cell of each map: P3, P4, P5 as published, with P2 (4)
            before them for small objects, P6 (64) after them for large ones, or both.
        deepen_factor: Multiplies the number of inner blocks.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
        init_cfg: mmengine init config.

    Raises:
        ValueError: Unknown version or strides, channels that are not one per stride.
    """

    def __init__(
        self,
        version: str = 'v8',
        in_channels: Sequence[int] = (64, 128, 256),
        *,
        out_channels: Sequence[int] = (64, 128, 256),
        strides: Sequence[int] = (8, 16, 32),
        deepen_factor: float = 1.0,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_arguments(version, in_channels, out_channels, strides)
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(out_channels)
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        num_blocks = scale_depth(NUM_BLOCKS[version], deepen_factor)
        channels_p3 = out_channels[list(strides).index(8)]
        small_inner = 'c3k' if channels_p3 >= C3K_CHANNELS else 'bottleneck'

        def block(in_channels: int, out_channels: int, inner: str) -> nn.Module:
            channels = (in_channels, out_channels)
            if version == 'v8':
                return C2f(*channels, num_blocks=num_blocks, add_identity=False, **layer_cfg)
            return C3k2(*channels, num_blocks=num_blocks, inner=inner, **layer_cfg)

        def down(channels: int) -> nn.Module:
            return ConvNormAct(channels, channels, kernel_size=3, stride=2, **layer_cfg)

        last = len(strides) - 1
        # What comes up to a level from below it: the backbone's coarsest map, then fused ones.
        from_below = (*out_channels[1:last], in_channels[last])
        self.top_down_blocks = nn.ModuleList(
            block(from_below[level] + in_channels[level], out_channels[level], small_inner)
            for level in reversed(range(last))
        )
        self.downsamples = nn.ModuleList(down(channels) for channels in out_channels[:last])
        self.bottom_up_blocks = nn.ModuleList(
            block(
                out_channels[level] + from_below[level],
                out_channels[level + 1],
                'c3k' if level + 1 == last else small_inner,
            )
            for level in range(last)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fuse the maps of the backbone.

        Args:
            inputs: One (B, in_channels, H, W) map per stride, the finest first.

        Returns:
            The same number of maps (B, out_channels, H, W), at the sizes of the inputs.
        """
        fused = [inputs[-1]]  # coarsest first
        for block, finer in zip(self.top_down_blocks, reversed(inputs[:-1]), strict=True):
            fused.append(block(_upsample_and_join(fused[-1], finer)))
        outputs = [fused.pop()]
        for downsample, block in zip(self.downsamples, self.bottom_up_blocks, strict=True):
            joined = torch.cat((downsample(outputs[-1]), fused.pop()), dim=1)
            outputs.append(block(joined))
        return tuple(outputs)


def _upsample_and_join(small: Tensor, large: Tensor) -> Tensor:
    """Nearest-neighbour upsampling of `small` to the size of `large`, channels concatenated."""
    upsampled = F.interpolate(small, size=large.shape[-2:], mode='nearest')
    return torch.cat((upsampled, large), dim=1)


def _check_arguments(
    version: str,
    in_channels: Sequence[int],
    out_channels: Sequence[int],
    strides: Sequence[int],
) -> None:
    if version not in NUM_BLOCKS:
        raise ValueError(f'CSPPAN: unknown version {version!r}, choose from {list(NUM_BLOCKS)}')
    if tuple(strides) not in KNOWN_STRIDES:
        raise ValueError(f'CSPPAN: got strides={strides}, expected one of {KNOWN_STRIDES}')
    for name, channels in (('in_channels', in_channels), ('out_channels', out_channels)):
        if not isinstance(channels, Sequence) or len(channels) != len(strides):
            raise ValueError(
                f'CSPPAN: {name} must have {NUMBER_WORDS[len(strides)]} entries, for strides '
                f'{tuple(strides)}, got {channels}'
            )
