"""Blocks of HGNetv2, see `hgnetv2.py`.

Sources: PP-HGNetV2 as trained for D-FINE (https://arxiv.org/abs/2410.13842). The children have the
published names, so that weight conversion renames prefixes only.

Shapes: B batch, C channels, H and W the size of the input.
"""

from typing import Any, NamedTuple

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.folding import FoldedConv, Kernel, fold_norm, fold_pair


class Stage(NamedTuple):
    """One stage.

    Attributes:
        mid_channels: Channels of every layer inside the blocks.
        out_channels: Channels of the stage.
        num_blocks: Number of blocks.
        kernel_size: Odd side of the kernels.
        num_layers: Layers of each block.
        light: Whether each layer is a 1x1 and a depthwise convolution instead of a full one.
    """

    mid_channels: int
    out_channels: int
    num_blocks: int
    kernel_size: int
    num_layers: int
    light: bool


class LearnableAffine(nn.Module):
    """One learned scale and one bias for all channels ("LAB")."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class ConvBN(nn.Module):
    """Convolution without bias, padded by half its kernel (rounded down when even), and a norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=(kernel_size - 1) // 2,
            groups=groups,
            bias=False,
        )
        self.bn = build_norm_layer(norm_cfg, out_channels)[1]
        self.folded: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) if self.folded is None else self.folded(x)

    def fold(self) -> nn.Module:
        return fold_pair(self.conv, self.bn)


class ConvBNAct(ConvBN):
    """`ConvBN`, ReLU and, with `use_lab`, `LearnableAffine`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        use_lab: bool,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            groups=groups,
            norm_cfg=norm_cfg,
        )
        self.lab = LearnableAffine() if use_lab else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.folded is not None:
            return self.folded(x)
        return self.lab(functional.relu(self.bn(self.conv(x))))

    def fold(self) -> nn.Module:
        """The convolution computes the scaled and shifted value; a bound does the rest.

        For s >= 0: s max(y, 0) + b = max(s y + b, b). For s < 0 it is min(s y + b, b).
        """
        kernel = fold_norm(self.conv, self.bn)
        if not isinstance(self.lab, LearnableAffine):
            bound: nn.Module = nn.ReLU(inplace=True)
        else:
            scale, bias = float(self.lab.scale), float(self.lab.bias)
            kernel = Kernel(kernel.weight * scale, kernel.bias * scale + bias)
            low, high = (bias, torch.inf) if scale >= 0 else (-torch.inf, bias)
            bound = nn.Hardtanh(low, high, inplace=True)
        return nn.Sequential(FoldedConv(self.conv, kernel), bound).eval()


class LightConv(nn.Module):
    """1x1 convolution without activation, then a depthwise one with it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        use_lab: bool,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, out_channels, norm_cfg=norm_cfg)
        self.conv2 = ConvBNAct(
            out_channels,
            out_channels,
            kernel_size=kernel_size,
            groups=out_channels,
            use_lab=use_lab,
            norm_cfg=norm_cfg,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Stem(nn.Module):
    """Two branches, pooling and two 2x2 convolutions, between convolutions of stride 2."""

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        use_lab: bool,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        layer_cfg: dict[str, Any] = dict(use_lab=use_lab, norm_cfg=norm_cfg)
        mid, half = mid_channels, mid_channels // 2
        self.stem1 = ConvBNAct(in_channels, mid, kernel_size=3, stride=2, **layer_cfg)
        self.stem2a = ConvBNAct(mid, half, kernel_size=2, **layer_cfg)
        self.stem2b = ConvBNAct(half, mid, kernel_size=2, **layer_cfg)
        self.stem3 = ConvBNAct(2 * mid, mid, kernel_size=3, stride=2, **layer_cfg)
        self.stem4 = ConvBNAct(mid, out_channels, **layer_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, ceil(H / 4), ceil(W / 4))."""
        # Kernels of 2 need one more row and column to keep the size, at the end.
        x = functional.pad(self.stem1(x), (0, 1, 0, 1))
        convolved = self.stem2b(functional.pad(self.stem2a(x), (0, 1, 0, 1)))
        pooled = functional.max_pool2d(x, kernel_size=2, stride=1)
        return self.stem4(self.stem3(torch.cat((pooled, convolved), dim=1)))


class HGBlock(nn.Module):
    """A chain of layers; 1x1 convolutions aggregate the input and the outputs of all of them.

    Args:
        in_channels: Channels of the input.
        stage: Layout of the stage.
        adds_identity: Whether the input is added to the output.
    """

    def __init__(
        self,
        in_channels: int,
        stage: Stage,
        *,
        adds_identity: bool,
        use_lab: bool,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        layer_cfg: dict[str, Any] = dict(use_lab=use_lab, norm_cfg=norm_cfg)
        self.adds_identity = adds_identity
        layer_class = LightConv if stage.light else ConvBNAct
        widths = [in_channels] + [stage.mid_channels] * stage.num_layers
        self.layers = nn.ModuleList(
            layer_class(before, after, kernel_size=stage.kernel_size, **layer_cfg)
            for before, after in zip(widths, widths[1:], strict=False)
        )
        half = stage.out_channels // 2
        self.aggregation = nn.Sequential(
            ConvBNAct(sum(widths), half, **layer_cfg),
            ConvBNAct(half, stage.out_channels, **layer_cfg),
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        aggregated = self.aggregation(torch.cat(outputs, dim=1))
        return aggregated + x if self.adds_identity else aggregated


class HGStage(nn.Module):
    """Blocks at one size, behind a depthwise convolution of stride 2 if `downsamples`."""

    def __init__(
        self,
        in_channels: int,
        stage: Stage,
        *,
        downsamples: bool,
        use_lab: bool,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.downsample = (
            ConvBN(
                in_channels,
                in_channels,
                kernel_size=3,
                stride=2,
                groups=in_channels,
                norm_cfg=norm_cfg,
            )
            if downsamples
            else nn.Identity()
        )
        # The first block changes the number of channels, so its input cannot be added.
        self.blocks = nn.Sequential(
            *(
                HGBlock(
                    stage.out_channels if index else in_channels,
                    stage,
                    adds_identity=index > 0,
                    use_lab=use_lab,
                    norm_cfg=norm_cfg,
                )
                for index in range(stage.num_blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))
