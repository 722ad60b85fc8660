"""Decoders of SegFormer without the concatenation: what is linear is done at each level's own resolution.

A 1x1 convolution acts on pixels and bilinear resizing on channels, so that either may come first; and the weights of the
resizing add up to 1, so that a bias passes through it. A 1x1 convolution of concatenated levels is therefore the sum of
what each level contributes, resized at the end:

    W concat(U(A_i x_i + a_i)) = sum U((W_i A_i) x_i + W_i a_i)

This is exact for all that stands before the first norm or activation behind it, in training as in evaluation. Resizing
twice is not resizing once: each level goes to the final size in one step.

Everything but the resizing is done on (B, H, W, C), where a 1x1 convolution is a product of matrices; resizing such maps
as channels-last views takes a third of the time that it takes with whole channels one after the other.

Shape letters: B images, H x W positions of the finest level, C_i channels of level i, E of the decoder.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mmext.models.common.folding import Kernel, fold_norm


def kernel_dtype(conv: nn.Module) -> torch.dtype:
    """The precision in which kernels are made in a step: that of the weights, but no less than float32."""
    assert isinstance(conv, nn.Conv2d)
    return torch.promote_types(conv.weight.dtype, torch.float32)


def open_kernel(unit: ConvModule, dtype: torch.dtype) -> tuple[Kernel, nn.Module | None]:
    """The kernel of a convolution and of the norm behind it, as far as that only multiplies and shifts at present.

    Args:
        unit: its 1x1 convolution, and a norm or none.
        dtype: of the kernel.

    Returns:
        The kernel, weight (O, I), through which gradients reach all parameters; and the norm that must still be
        applied, None if there is none.
    """
    conv, norm = unit.conv, unit.norm if unit.with_norm else None
    if isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None:
        return _as_matrix(fold_norm(conv, norm, dtype)), None
    weight = conv.weight.to(dtype).flatten(1)
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.to(dtype)
    return Kernel(weight, bias), norm


def closed_kernel(unit: ConvModule) -> Kernel:
    """The kernel of a convolution and of the norm behind it in evaluation, in float64.

    Raises:
        ValueError: the norm cannot be folded.
    """
    if unit.with_norm:
        return _as_matrix(fold_norm(unit.conv, unit.norm))
    return open_kernel(unit, torch.float64)[0]


def split_kernel(kernel: Kernel, num_levels: int) -> list[Kernel]:
    """The kernel of a concatenation as one for each part of it; the first has the bias."""
    first, *others = kernel.weight.chunk(num_levels, dim=1)
    without = torch.zeros_like(kernel.bias)
    return [Kernel(first, kernel.bias), *(Kernel(part, without) for part in others)]


def multiply_kernels(outer: Kernel, inner: nn.Module) -> Kernel:
    """What a linear layer and one behind it do together.

    Args:
        outer: of the one behind, weight (O, E).
        inner: the one before, a 1x1 convolution with weight (E, I, 1, 1).

    Returns:
        Weight (O, I), in the precision of `outer`.
    """
    assert isinstance(inner, nn.Conv2d)
    dtype, bias = outer.weight.dtype, outer.bias
    if inner.bias is not None:
        bias = bias + outer.weight @ inner.bias.to(dtype)
    return Kernel(outer.weight @ inner.weight.to(dtype).flatten(1), bias)


def as_pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H, W, C) with the channels of a pixel together; no copy of what has them together already."""
    return x.permute(0, 2, 3, 1).contiguous()


def as_map(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def sum_levels(levels: Sequence[Tensor], *, mode: str, align_corners: bool) -> Tensor:
    """Resize maps to the size of the first and add them, into the memory of the first.

    Args:
        levels: (B, E, H_i, W_i) each; the first must not be needed afterwards.
        mode: of the resizing, as in `torch.nn.functional.interpolate`.
        align_corners: likewise.

    Returns:
        (B, E, H, W).
    """
    total = levels[0]
    size = total.shape[2:]
    # 'nearest' and 'area' refuse to be told.
    aligned = align_corners if mode in ('bilinear', 'bicubic') else None
    for level in levels[1:]:
        resized = functional.interpolate(level, size, mode=mode, align_corners=aligned)
        total = total.add_(resized)
    return total


def classify(x: Tensor, dropout: nn.Module | None, conv: nn.Conv2d) -> Tensor:
    """Apply dropout and a 1x1 convolution to a map.

    Args:
        x: (B, E, H, W).
        dropout: of channels or of single values; None for none.
        conv: the classifier.

    Returns:
        (B, O, H, W), a channels-last view, which is resized in half of the time.
    """
    if dropout is not None:
        x = dropout(x)
    return as_map(functional.linear(as_pixels(x), conv.weight.flatten(1), conv.bias))


def _as_matrix(kernel: Kernel) -> Kernel:
    return Kernel(kernel.weight.flatten(1), kernel.bias)
