"""Deformable convolution as arithmetic: samples at free positions, then a matrix product.

Papers: Deformable Convolutional Networks, Dai et al., ICCV 2017 (https://arxiv.org/abs/1703.06211),
and Deformable ConvNets v2, Zhu et al., CVPR 2019 (https://arxiv.org/abs/1811.11168).

Some rows of the output of one image are computed at a time, so that the samples, K times as large
as the input, need little memory. The derivatives compute the rows again, with autograd, instead of
keeping the samples.

Letters: B images, C channels in, O out, H W input, h w output, K cells of the kernel, D deformable
groups (channels with offsets of their own), G groups of the convolution, R rows of the output in a
block.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmext.ops.precision import widen
from mmext.ops.sampling import bilinear_taps, weighted_rows

# Samples and taps in flight; autograd keeps about as much again.
_BYTES_PER_BLOCK = 32 << 20
# Index, weight and intermediates of the four taps of one position.
_BYTES_PER_POSITION = 200


class Geometry(NamedTuple):
    """How the kernel lies on the input; pairs are (y, x)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int


class Inputs(NamedTuple):
    """What a deformable convolution depends on."""

    input: Tensor  # (B, C, H, W)
    weight: Tensor  # (O, C / G, *kernel)
    offset: Tensor  # (B, D * K * 2, h, w) y and x of each cell of the kernel, in cells of the input
    mask: Tensor | None  # (B, D * K, h, w) weight of each sample; None for 1


class Gradients(NamedTuple):
    """Where derivatives are written: tensors of the shapes of `Inputs`, None if not wanted."""

    input: Tensor | None = None
    weight: Tensor | None = None
    offset: Tensor | None = None
    mask: Tensor | None = None


def convolve(inputs: Inputs, output: Tensor, geometry: Geometry) -> None:
    """Fill `output` (B, O, h, w)."""
    for image, rows in _blocks(inputs, geometry):
        output[image, :, rows] = _convolve_rows(
            _wide_rows(inputs, image, rows), rows.start, geometry
        )


def differentiate(
    inputs: Inputs, grad_output: Tensor, gradients: Gradients, geometry: Geometry
) -> None:
    """Add the derivatives by input and weight to `gradients`, and write those by offset and mask.

    Args:
        inputs: those of the forward pass.
        grad_output: (B, O, h, w).
        gradients: filled.
        geometry: that of the forward pass.
    """
    wanted = [name for name in Gradients._fields if getattr(gradients, name) is not None]
    # Blocks add to these two: half precision would lose the small parts.
    sums = {
        name: torch.zeros_like(target, dtype=widen(target).dtype)
        for name, target in (('input', gradients.input), ('weight', gradients.weight))
        if target is not None
    }
    for image, rows in _blocks(inputs, geometry):
        block = _leaves(_wide_rows(inputs, image, rows), wanted)
        with torch.enable_grad():
            output = _convolve_rows(block, rows.start, geometry)
        leaves = [getattr(block, name) for name in wanted]
        grads = torch.autograd.grad(output, leaves, widen(grad_output[image, :, rows]))
        for name, grad in zip(wanted, grads, strict=True):
            if name == 'input':
                sums[name][image] += grad
            elif name == 'weight':
                sums[name] += grad
            else:
                getattr(gradients, name)[image, :, rows] = grad
    for name, total in sums.items():
        target = getattr(gradients, name)
        target += total.to(target.dtype)


def _blocks(inputs: Inputs, geometry: Geometry) -> Iterator[tuple[int, slice]]:
    """Image by image, as many rows of the output at a time as fit in memory."""
    num_rows, width = inputs.offset.shape[2:]
    kernel_size = geometry.kernel[0] * geometry.kernel[1]
    positions = geometry.deform_groups * kernel_size * width
    samples = inputs.input.size(1) * kernel_size * width
    step = max(1, _BYTES_PER_BLOCK // (4 * samples + _BYTES_PER_POSITION * positions))
    for image in range(len(inputs.input)):
        for begin in range(0, num_rows, step):
            yield image, slice(begin, begin + step)


def _wide_rows(inputs: Inputs, image: int, rows: slice) -> Inputs:
    """What some rows of one image depend on, without the dimension of the batch."""
    mask = inputs.mask
    return Inputs(
        widen(inputs.input[image]),
        widen(inputs.weight),
        widen(inputs.offset[image, :, rows]),
        mask if mask is None else widen(mask[image, :, rows]),
    )


def _leaves(block: Inputs, wanted: list[str]) -> Inputs:
    """The same tensors cut off from their history; the wanted ones collect gradients."""
    mask = block.mask
    return Inputs(
        block.input.detach().requires_grad_('input' in wanted),
        block.weight.detach().requires_grad_('weight' in wanted),
        block.offset.detach().requires_grad_('offset' in wanted),
        mask if mask is None else mask.detach().requires_grad_('mask' in wanted),
    )


def _convolve_rows(block: Inputs, first_row: int, geometry: Geometry) -> Tensor:
    """Rows of the output of one image, (O, R, w); differentiable by all of `block`."""
    num_channels, height, width = block.input.shape
    groups, deform_groups = geometry.groups, geometry.deform_groups
    y, x = _positions(block.offset, first_row, geometry)  # D x K x R x w
    index, weight = bilinear_taps(y, x, height, width)
    if block.mask is not None:
        weight = weight * block.mask.view_as(y)[..., None]
    # The table has one row for each cell and deformable group: (H W D) x C/D.
    deform_group = torch.arange(deform_groups, device=index.device)
    index = index * deform_groups + deform_group.view(-1, 1, 1, 1, 1)
    table = block.input.permute(1, 2, 0).reshape(-1, num_channels // deform_groups)
    index, weight = (taps.permute(2, 3, 1, 0, 4).reshape(-1, 4) for taps in (index, weight))
    samples = weighted_rows(table, index, weight)  # (R w K D) x C/D
    # (R w) x K x G x C/G -> G x (R w) x (K C/G)
    samples = samples.view(-1, y.size(1), groups, num_channels // groups)
    samples = samples.permute(2, 0, 1, 3).flatten(2)
    # O x C/G x K -> G x (K C/G) x O/G
    kernel = block.weight.flatten(2).unflatten(0, (groups, -1)).permute(0, 3, 2, 1).flatten(1, 2)
    output = samples @ kernel  # G x (R w) x O/G
    return output.transpose(1, 2).reshape(-1, *y.shape[2:])


def _positions(offset: Tensor, first_row: int, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Row and column of each sample in the input: (D K 2, R, w) -> two of (D, K, R, w)."""
    num_rows, width = offset.shape[1:]
    kernel_size = geometry.kernel[0] * geometry.kernel[1]
    offset = offset.view(geometry.deform_groups, kernel_size, 2, num_rows, width)

    def along(axis: int, length: int, start: int) -> tuple[Tensor, Tensor]:
        out = torch.arange(start, start + length, device=offset.device)
        cell = torch.arange(geometry.kernel[axis], device=offset.device)
        return out * geometry.stride[axis] - geometry.padding[axis], cell * geometry.dilation[axis]

    out_y, cell_y = along(0, num_rows, first_row)
    out_x, cell_x = along(1, width, 0)
    # K x R x 1 and K x 1 x w
    y = (cell_y.repeat_interleave(geometry.kernel[1])[:, None] + out_y)[:, :, None]
    x = (cell_x.repeat(geometry.kernel[0])[:, None] + out_x)[:, None, :]
    return offset[:, :, 0] + y, offset[:, :, 1] + x
