"""Mask prototypes from all levels: coarse ones say what belongs together, the finest one where it ends."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.layers import ConvNormAct
from mmext.registry import MODELS


class Fusion(NamedTuple):
    """How maps (B, C, h, w) of the levels become one.

    Attributes:
        join: the maps to (B, C, h, w) or, where it widens, (B, levels * C, h, w).
        widens: whether the channels add up.
    """

    join: Callable[[Sequence[Tensor]], Tensor]
    widens: bool


def _add(maps: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, maps)


def _concatenate(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(maps), dim=1)


FUSIONS = {'sum': Fusion(_add, widens=False), 'concat': Fusion(_concatenate, widens=True)}


@MODELS.register_module()
class MultiScaleProto(nn.Module):
    """Prototypes at half the stride of the finest level, from all levels.

    Every level: 1x1 to common channels (normalised, linear), bilinear to the finest level's size. Then fused -> 3x3
    -> transposed 2x2 / 2 -> 3x3 -> 1x1, each convolution with normalisation and activation, as in `Proto`.

    Wide channels pay at stride 8, where they mix the levels; at stride 4 each costs four times as much and only
    draws the outline. Multiply-adds at 640 x 640, counted with `torch.utils.flop_counter`, for 64 prototypes:

    | size | common, hidden, hr | sum  | concat | `Proto`, 32 prototypes |
    |------|--------------------|------|--------|------------------------|
    | n    | 64, 128, 64        | 1.78 | 2.72   | 1.34                   |
    | s    | 128, 256, 128      | 6.89 | 10.7   | 5.24                   |
    | l    | 256, 512, 256      | 27.1 | 42.2   | 20.8                   |
    | l    | 256, 512, 512      | 76.2 | 91.3   | 20.8                   |

    Args:
        in_channels: channels of the levels, the finest first.
        num_prototypes: output channels.
        common_channels: channels that every level is projected to; 256 x width.
        hidden_channels: channels after the fusion, at the finest level's stride; 512 x width.
        hr_channels: channels at the prototypes' stride; 256 x width.
        fusion: 'sum', or 'concat' for three times the input channels of the first 3x3.
        norm_cfg: normalisation of the convolutions.
        act_cfg: activation of the convolutions.

    Raises:
        ValueError: unknown fusion.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_prototypes: int,
        *,
        common_channels: int,
        hidden_channels: int,
        hr_channels: int,
        norm_cfg: dict,
        act_cfg: dict,
        fusion: str = 'sum',
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(
                f'MultiScaleProto: got fusion={fusion!r}, expected one of {sorted(FUSIONS)}.'
            )
        self.join, widens = FUSIONS[fusion]
        self.embed_channels = hr_channels
        layer: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.laterals = nn.ModuleList(
            ConvNormAct(channels, common_channels, norm_cfg=norm_cfg, act_cfg=None)
            for channels in in_channels
        )
        fused_channels = common_channels * (len(in_channels) if widens else 1)
        self.cv1 = ConvNormAct(fused_channels, hidden_channels, kernel_size=3, **layer)
        self.upsample = nn.ConvTranspose2d(hidden_channels, hr_channels, 2, stride=2)
        self.cv2 = ConvNormAct(hr_channels, hr_channels, kernel_size=3, **layer)
        self.cv3 = ConvNormAct(hr_channels, num_prototypes, **layer)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Levels (B, C, h, w), the finest first, to prototypes (B, num_prototypes, 2 h, 2 w) of the finest."""
        return self.cv3(self.embed(features))

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """What `cv3` makes the prototypes of: (B, embed_channels, 2 h, 2 w)."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        # A 1x1 convolution commutes with the resize: it is done before, on the small maps.
        size = maps[0].shape[-2:]
        aligned = [
            functional.interpolate(x, size, mode='bilinear', align_corners=False) for x in maps[1:]
        ]
        x = self.cv1(self.join([maps[0], *aligned]))
        return self.cv2(self.upsample(x))
