"""Convolution blocks of the DEIMv2 encoders.

The block layouts are those of the released DEIMv2 (https://arxiv.org/abs/2509.20787) and D-FINE
(https://arxiv.org/abs/2410.13842) networks, after GELAN (https://arxiv.org/abs/2402.13616) and
RepVGG (https://arxiv.org/abs/2101.03697). The children have the published names (`cv1`, `conv1`,
`bottlenecks`, ...), so that weight conversion renames prefixes only.

Shapes: B batch, C channels, H and W the size of the feature map.
"""

from collections.abc import Callable
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmext.models.common.folding import FoldedConv, Kernel, fold_norm, fold_pair

NORM_CFG: dict[str, Any] = dict(type='BN')


class ConvNorm(nn.Module):
    """Convolution without bias, padded by half its kernel, and a norm; no activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd side of the kernel.
        stride: Stride; the output is ceil(H / stride) x ceil(W / stride).
        groups: Groups of the convolution.
        norm_cfg: Config of the norm layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm_cfg: dict[str, Any] = NORM_CFG,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]
        self.folded: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if self.folded is None else self.folded(x)

    def fold(self) -> nn.Module:
        return fold_pair(self.conv, self.norm)


class ConvNormAct(ConvNorm):
    """`ConvNorm` and SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(super().forward(x))


class VGGBlock(nn.Module):
    """SiLU of the sum of a 3x3 and a 1x1 `ConvNorm`, (B, C, H, W) -> (B, C, H, W).

    RepVGG's block without the identity branch.
    """

    def __init__(self, channels: int, *, norm_cfg: dict[str, Any] = NORM_CFG) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, kernel_size=3, norm_cfg=norm_cfg)
        self.conv2 = ConvNorm(channels, channels, norm_cfg=norm_cfg)
        self.folded: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.folded is not None:
            return nn.functional.silu(self.folded(x))
        return nn.functional.silu(self.conv1(x) + self.conv2(x))

    def fold(self) -> nn.Module:
        """Both convolutions as one of 3x3, in whose centre the 1x1 is added."""
        three, one = (fold_norm(branch.conv, branch.norm) for branch in (self.conv1, self.conv2))
        self.conv1.folded = self.conv2.folded = None
        weight = three.weight + nn.functional.pad(one.weight, (1, 1, 1, 1))
        return FoldedConv(self.conv1.conv, Kernel(weight, three.bias + one.bias))


class CSP2(nn.Module):
    """1x1 convolution, a chain of `VGGBlock`s on one half of its channels, the sum of the halves.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output and of each half.
        num_blocks: Length of the chain.
        norm_cfg: Config of the norm layers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_blocks: int,
        norm_cfg: dict[str, Any] = NORM_CFG,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, 2 * out_channels, norm_cfg=norm_cfg)
        self.bottlenecks = nn.Sequential(
            *(VGGBlock(out_channels, norm_cfg=norm_cfg) for _ in range(num_blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, transformed = self.conv1(x).chunk(2, dim=1)
        return kept + self.bottlenecks(transformed)


class E5(nn.Module):
    """Fusion block of the larger sizes ("RepNCSPELAN5"), (B, C, H, W) -> (B, C, H, W).

    A 1x1 convolution to twice the channels, two chained `CSP2`s behind its second half, and a 1x1
    convolution on everything.

    Args:
        channels: Channels C of input and output.
        csp_channels: Channels of each chain.
        num_blocks: `VGGBlock`s of each `CSP2`.
        norm_cfg: Config of the norm layers.
    """

    def __init__(
        self,
        channels: int,
        csp_channels: int,
        *,
        num_blocks: int,
        norm_cfg: dict[str, Any] = NORM_CFG,
    ) -> None:
        super().__init__()
        self.cv1 = ConvNormAct(channels, 2 * channels, norm_cfg=norm_cfg)
        self.cv2 = self._chain(channels, csp_channels, num_blocks, norm_cfg)
        self.cv3 = self._chain(csp_channels, csp_channels, num_blocks, norm_cfg)
        self.cv4 = ConvNormAct(2 * (channels + csp_channels), channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        # (B, 2C, H, W), concatenated as it is: the first half is never copied.
        both_halves = self.cv1(x)
        inner = self.cv2(both_halves.chunk(2, dim=1)[1])
        return self.cv4(torch.cat((both_halves, inner, self.cv3(inner)), dim=1))

    def _chain(
        self, in_channels: int, out_channels: int, num_blocks: int, norm_cfg: dict[str, Any]
    ) -> nn.Sequential:
        return nn.Sequential(
            CSP2(in_channels, out_channels, num_blocks=num_blocks, norm_cfg=norm_cfg)
        )


class E4(E5):
    """Fusion block of the smaller sizes ("RepNCSPELAN4"): `E5` with a 3x3 convolution per chain."""

    def _chain(
        self, in_channels: int, out_channels: int, num_blocks: int, norm_cfg: dict[str, Any]
    ) -> nn.Sequential:
        chain = super()._chain(in_channels, out_channels, num_blocks, norm_cfg)
        return chain.append(
            ConvNormAct(out_channels, out_channels, kernel_size=3, norm_cfg=norm_cfg)
        )


FUSION_BLOCKS: dict[str, Callable[..., nn.Module]] = {'e4': E4, 'e5': E5}


def fusion_block_class(name: str, owner: str) -> Callable[..., nn.Module]:
    """The class of a fusion block.

    Args:
        name: 'e4' or 'e5'.
        owner: Who asks, for the message.

    Raises:
        ValueError: There is no such block.
    """
    if name not in FUSION_BLOCKS:
        raise ValueError(f'{owner}: got block={name!r}, expected one of {list(FUSION_BLOCKS)}')
    return FUSION_BLOCKS[name]
