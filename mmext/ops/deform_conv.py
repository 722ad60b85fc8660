"""Deformable convolution: mmcv's `deform_conv_*` and `modulated_deform_conv_*`.

Their arguments are fixed by mmcv; the arithmetic is in `deformable.py`, which also explains the
letters.
"""

import torch
from torch import Tensor

from mmext.ops.deformable import Geometry, Gradients, Inputs, convolve, differentiate
from mmext.ops.precision import widen


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Convolve at the offset positions; positions off the input read zeros.

    Args:
        input: (B, C, H, W).
        weight: (O, C / G, kH, kW).
        offset: (B, D * K * 2, h, w) y and x of each cell of the kernel, in cells of the input.
        output: filled; (B, O, h, w).
        columns: scratch of the compiled op; not used.
        ones: scratch of the compiled op; not used.
        kW: width of the kernel, and so on for its height, stride (dW, dH), padding and dilation.
        group: G.
        deformable_group: D.
        im2col_step: images per kernel launch of the compiled op; not used.
    """
    geometry = Geometry(
        (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    convolve(Inputs(input, weight, offset, None), output, geometry)


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the derivative by the input to `gradInput`, write the other to `gradOffset`."""
    geometry = Geometry(
        (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    gradients = Gradients(input=gradInput, offset=gradOffset)
    differentiate(Inputs(input, weight, offset, None), gradOutput, gradients, geometry)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add `scale` times the derivative by the weight to `gradWeight`."""
    geometry = Geometry(
        (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    # The derivative by the weight does not depend on the weight: its place is held by zeros.
    weight = torch.zeros_like(gradWeight)
    grad_weight = torch.zeros_like(gradWeight)
    gradients = Gradients(weight=grad_weight)
    differentiate(Inputs(input, weight, offset, None), gradOutput, gradients, geometry)
    gradWeight.add_(grad_weight, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Convolve at the offset positions, each sample weighted by its mask.

    Args:
        input: (B, C, H, W).
        weight: (O, C / G, kernel_h, kernel_w).
        bias: (O,), or empty without `with_bias`.
        ones: scratch of the compiled op; not used.
        offset: (B, D * K * 2, h, w) y and x of each cell of the kernel, in cells of the input.
        mask: (B, D * K, h, w), as a rule in [0, 1].
        output: filled; (B, O, h, w).
        columns: scratch of the compiled op; not used.
        kernel_h: height of the kernel, and so on for its width, stride, padding and dilation.
        group: G.
        deformable_group: D.
        with_bias: add the bias.
    """
    geometry = Geometry(
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        group,
        deformable_group,
    )
    convolve(Inputs(input, weight, offset, mask), output, geometry)
    if with_bias:
        output += bias[:, None, None]


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add the derivatives to `grad_input`, `grad_weight` and `grad_bias`; write the others."""
    geometry = Geometry(
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        group,
        deformable_group,
    )
    gradients = Gradients(input=grad_input, weight=grad_weight, offset=grad_offset, mask=grad_mask)
    differentiate(Inputs(input, weight, offset, mask), grad_output, gradients, geometry)
    if with_bias:
        grad_bias += widen(grad_output).sum((0, 2, 3)).to(grad_bias.dtype)
