"""Mask prototypes: the basis that every instance's coefficients combine into its mask (YOLACT, arXiv:1904.02689)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmext.models.common.layers import ConvNormAct
from mmext.registry import MODELS


@MODELS.register_module()
class Proto(nn.Module):
    """Prototypes from one level alone, as published at stride 4 from the level at stride 8.

    3x3 -> transposed 2x2 / 2 -> 3x3 -> 1x1, each convolution with normalisation and activation, the last one too.

    Where the finest level is P2 at stride 4 there is a choice: its own detail at stride 4 (`upsample=1`), outlines
    at stride 2 for four times the work and memory (`upsample=2`), or the published branch on P3 (`level=1`).

    Args:
        in_channels: channels of every level, the finest first; only one of them is used.
        num_prototypes: output channels.
        hidden_channels: channels between; the published models use 256 x width.
        level: index of the level that is used.
        upsample: prototype pixels per cell of that level along each axis; 1 leaves the transposed convolution out.
        norm_cfg: normalisation of the convolutions.
        act_cfg: activation of the convolutions.

    Raises:
        ValueError: a level that is not there, an `upsample` below 1.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_prototypes: int,
        *,
        hidden_channels: int,
        level: int = 0,
        upsample: int = 2,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        if not 0 <= level < len(in_channels):
            raise ValueError(
                f'Proto: got level={level}, expected 0 (the finest) to {len(in_channels) - 1}.'
            )
        if upsample < 1:
            raise ValueError(f'Proto: got upsample={upsample}, expected at least 1.')
        self.level = level
        self.embed_channels = hidden_channels
        layer: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.cv1 = ConvNormAct(in_channels[level], hidden_channels, kernel_size=3, **layer)
        self.upsample = (
            nn.ConvTranspose2d(hidden_channels, hidden_channels, upsample, stride=upsample)
            if upsample > 1
            else nn.Identity()
        )
        self.cv2 = ConvNormAct(hidden_channels, hidden_channels, kernel_size=3, **layer)
        self.cv3 = ConvNormAct(hidden_channels, num_prototypes, **layer)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of each level (B, C, h, w) to prototypes (B, num_prototypes, upsample h, upsample w)."""
        return self.cv3(self.embed(features))

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """What `cv3` makes the prototypes of: (B, embed_channels, upsample h, upsample w)."""
        return self.cv2(self.upsample(self.cv1(features[self.level])))
