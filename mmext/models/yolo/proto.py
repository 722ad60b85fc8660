"""Mask prototypes: the basis that every instance's coefficients combine into its mask (YOLACT, arXiv:1904.02689)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmext.models.common.layers import ConvNormAct
from mmext.registry import MODELS


@MODELS.register_module()
class Proto(nn.Module):
    """Prototypes at stride 4 from the finest level alone.

    3x3 -> transposed 2x2 / 2 -> 3x3 -> 1x1, each convolution with normalisation and activation, the last one too.

    Args:
        in_channels: channels of every level; only the first is used.
        num_prototypes: output channels.
        hidden_channels: channels between; the published models use 256 x width.
        norm_cfg: normalisation of the convolutions.
        act_cfg: activation of the convolutions.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_prototypes: int,
        *,
        hidden_channels: int,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        layer: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.cv1 = ConvNormAct(in_channels[0], hidden_channels, kernel_size=3, **layer)
        self.upsample = nn.ConvTranspose2d(hidden_channels, hidden_channels, 2, stride=2)
        self.cv2 = ConvNormAct(hidden_channels, hidden_channels, kernel_size=3, **layer)
        self.cv3 = ConvNormAct(hidden_channels, num_prototypes, **layer)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of each level (B, C, H / 8, W / 8), ... to prototypes (B, num_prototypes, H / 4, W / 4)."""
        x = self.upsample(self.cv1(features[0]))
        return self.cv3(self.cv2(x))
