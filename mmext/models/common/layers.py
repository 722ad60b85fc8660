"""Convolution blocks of the YOLO v8 and v11 family, shared by its backbones, necks and heads.

Sources: CSPNet (https://arxiv.org/abs/1911.11929) for the split-transform-concatenate idea; the
block layouts are those of the published YOLOv8 and YOLO11 networks. The children of the blocks are
called `cv1`, `cv2`, `m` as in the published weights, so that weight conversion renames prefixes
only.

Shapes: B batch, C channels, H and W the size of the feature map.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

# torch's default eps is 1e-5: with it, converted weights lose precision without any error.
NORM_CFG: dict[str, Any] = dict(type='BN', momentum=0.03, eps=1e-3)
# Out of place: autograd clones the input of an in-place SiLU, which made training 10-17 %
# slower on a CPU (v8n, 320 px) and saves no memory.
ACT_CFG: dict[str, Any] = dict(type='SiLU', inplace=False)


def scale_channels(channels: int, widen_factor: float, max_channels: int) -> int:
    """Number of channels at a model size: capped, multiplied, rounded up to a multiple of 8."""
    return math.ceil(min(channels, max_channels) * widen_factor / 8) * 8


def scale_depth(num_blocks: int, deepen_factor: float) -> int:
    """Number of blocks at a model size, at least one."""
    return max(round(num_blocks * deepen_factor), 1)


class ConvNormAct(ConvModule):
    """Convolution without bias, "same" padding, batch norm and activation.

    An mmcv `ConvModule` that starts from torch's own convolution weights (uniform, by fan-in).
    mmcv's Kaiming normal weights have six times the variance; below a batch norm that divides the
    effective learning rate by six, and the published schedules are made for torch's.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd side of the kernel.
        stride: Stride; the output is ceil(H / stride) x ceil(W / stride).
        groups: Groups of the convolution.
        norm_cfg: Config of the norm layer, None for a bias instead.
        act_cfg: Config of the activation, None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )

    def init_weights(self) -> None:
        """Draw the weights anew; mmcv calls this from the constructor, mmengine before training."""
        self.conv.reset_parameters()
        if self.with_norm:
            self.norm.reset_parameters()


class Bottleneck(nn.Module):
    """Two 3x3 convolutions with an optional identity shortcut, (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: Channels of input and output.
        expand_ratio: Channels between the convolutions, as a part of `channels`.
        add_identity: Whether the input is added to the output.
    """

    def __init__(
        self,
        channels: int,
        *,
        expand_ratio: float = 1.0,
        add_identity: bool = True,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
    ) -> None:
        super().__init__()
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        hidden_channels = int(channels * expand_ratio)
        self.cv1 = ConvNormAct(channels, hidden_channels, kernel_size=3, **layer_cfg)
        self.cv2 = ConvNormAct(hidden_channels, channels, kernel_size=3, **layer_cfg)
        self.add_identity = add_identity

    def forward(self, x: Tensor) -> Tensor:
        out = self.cv2(self.cv1(x))
        return x + out if self.add_identity else out


class C3k(nn.Module):
    """CSP block of three 1x1 convolutions and two Bottlenecks, the inner block of large C3k2s.

    Args:
        channels: Channels of input and output; the two branches have half of them.
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
        hidden_channels = channels // 2
        self.cv1 = ConvNormAct(channels, hidden_channels, **layer_cfg)
        self.cv2 = ConvNormAct(channels, hidden_channels, **layer_cfg)
        self.cv3 = ConvNormAct(2 * hidden_channels, channels, **layer_cfg)
        self.m = nn.Sequential(*(Bottleneck(hidden_channels, **layer_cfg) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


class SplitChain(nn.Module):
    """1x1 convolution, a chain of blocks on half of its channels, concatenation, 1x1 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        hidden_channels: Channels c of each half and of each inner block.
        blocks: Inner blocks, each (B, c, H, W) -> (B, c, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int,
        blocks: Sequence[nn.Module],
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
    ) -> None:
        super().__init__()
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.hidden_channels = hidden_channels
        self.cv1 = ConvNormAct(in_channels, 2 * hidden_channels, **layer_cfg)
        self.cv2 = ConvNormAct((2 + len(blocks)) * hidden_channels, out_channels, **layer_cfg)
        self.m = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        # (B, 2c, H, W), concatenated as it is: the first half is never copied.
        both_halves = self.cv1(x)
        outputs = [both_halves]
        last = both_halves[:, self.hidden_channels :]
        for block in self.m:
            last = block(last)
            outputs.append(last)
        return self.cv2(torch.cat(outputs, dim=1))


class C2f(SplitChain):
    """Split chain of YOLOv8: full-width Bottlenecks on half of the output channels.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_blocks: Number of Bottlenecks.
        add_identity: Whether the Bottlenecks have a shortcut (backbone: yes, neck: no).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_blocks: int,
        add_identity: bool,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
    ) -> None:
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        channels = out_channels // 2
        super().__init__(
            in_channels,
            out_channels,
            hidden_channels=channels,
            blocks=[
                Bottleneck(channels, add_identity=add_identity, **layer_cfg)
                for _ in range(num_blocks)
            ],
            **layer_cfg,
        )


class C3k2(SplitChain):
    """Split chain of YOLO11: C3k blocks or half-width Bottlenecks, both with shortcuts.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_blocks: Number of inner blocks.
        inner: 'c3k' or 'bottleneck'.
        expand_ratio: Channels of each inner block, as a part of `out_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_blocks: int,
        inner: str,
        expand_ratio: float = 0.5,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
    ) -> None:
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        channels = int(out_channels * expand_ratio)

        def inner_block() -> nn.Module:
            if inner == 'c3k':
                return C3k(channels, **layer_cfg)
            return Bottleneck(channels, expand_ratio=0.5, **layer_cfg)

        super().__init__(
            in_channels,
            out_channels,
            hidden_channels=channels,
            blocks=[inner_block() for _ in range(num_blocks)],
            **layer_cfg,
        )
