"""Blocks at the end of the CSP backbone that widen its view: pooling (SPPF), attention (C2PSA).

As in `mmext.models.common.layers`, children bear the names of the published weights.
Shapes: B batch, C channels, H and W the size of the feature map, N = H * W.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmext.models.common.layers import ACT_CFG, NORM_CFG, ConvNormAct

HEAD_CHANNELS = 64


class SPPF(nn.Module):
    """Spatial pyramid pooling: three serial 5x5 max-pools, which see 5, 9 and 13 pixels.

    Args:
        channels: Channels of input and output; the pooled maps have half of them.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
    ) -> None:
        super().__init__()
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.cv1 = ConvNormAct(channels, channels // 2, **layer_cfg)
        self.cv2 = ConvNormAct(4 * (channels // 2), channels, **layer_cfg)
        self.m = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self.cv1(x)]
        for _ in range(3):
            outputs.append(self.m(outputs[-1]))
        return self.cv2(torch.cat(outputs, dim=1))


class SpatialAttention(nn.Module):
    """Multi-head self-attention over the positions of a map.

    A depthwise convolution of the values takes the place of a position encoding.

    Keys and queries have half the channels of the values. The 1x1 convolution `qkv` lays its output
    out head by head: [q | k | v] of head 0, then those of head 1, and so on.

    Args:
        channels: Channels of input and output; a head has 64 of them, or all if there are fewer.
    """

    def __init__(self, channels: int, *, norm_cfg: dict[str, Any] | None = NORM_CFG) -> None:
        super().__init__()
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=None)
        self.num_heads = max(channels // HEAD_CHANNELS, 1)
        self.value_channels = channels // self.num_heads
        self.key_channels = self.value_channels // 2
        self.qkv = ConvNormAct(
            channels, channels + 2 * self.num_heads * self.key_channels, **layer_cfg
        )
        self.proj = ConvNormAct(channels, channels, **layer_cfg)
        self.pe = ConvNormAct(channels, channels, kernel_size=3, groups=channels, **layer_cfg)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # (B, heads, q + k + v, N), then three times (B, heads, head channels, N)
        qkv = self.qkv(x).reshape(batch, self.num_heads, -1, height * width)
        sizes = (self.key_channels, self.key_channels, self.value_channels)
        query, key, value = qkv.split(sizes, dim=2)
        # Tokens last but one, as the kernel wants them; its scale is key_channels ** -0.5.
        attended = F.scaled_dot_product_attention(query.mT, key.mT, value.mT)  # (B, heads, N, v)
        attended = attended.mT.reshape(batch, channels, height, width)
        position = self.pe(value.reshape(batch, channels, height, width))
        return self.proj(attended + position)


class PSABlock(nn.Module):
    """Self-attention and a two-layer feed-forward net of 1x1 convolutions, each with a shortcut.

    Args:
        channels: Channels of input and output.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
    ) -> None:
        super().__init__()
        self.attn = SpatialAttention(channels, norm_cfg=norm_cfg)
        self.ffn = nn.Sequential(
            ConvNormAct(channels, 2 * channels, norm_cfg=norm_cfg, act_cfg=act_cfg),
            ConvNormAct(2 * channels, channels, norm_cfg=norm_cfg, act_cfg=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    """1x1 convolution, PSA blocks on half of its channels, concatenation, 1x1 convolution.

    Args:
        channels: Channels of input and output; the attention works on half of them.
        num_blocks: Number of PSA blocks.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_blocks: int,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
    ) -> None:
        super().__init__()
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        half = channels // 2
        self.cv1 = ConvNormAct(channels, 2 * half, **layer_cfg)
        self.cv2 = ConvNormAct(2 * half, channels, **layer_cfg)
        self.m = nn.Sequential(*(PSABlock(half, **layer_cfg) for _ in range(num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        kept, attended = self.cv1(x).chunk(2, dim=1)
        return self.cv2(torch.cat((kept, self.m(attended)), dim=1))
