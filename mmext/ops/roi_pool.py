"""RoI pooling, the maximum over whole cells: mmcv's `roi_pool_forward` and `roi_pool_backward`.

Paper: Fast R-CNN, Girshick, ICCV 2015 (https://arxiv.org/abs/1504.08083). The compiled op exists on
CUDA only.

Letters: N boxes, B images, C channels, H W feature map, P x Q bins.
"""

import torch
from torch import Tensor

from mmext.ops.precision import widen


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the greatest feature under each bin of each box.

    A bin without cells gives 0. A box of no or negative size (x2 + 1 <= x1) leaves `output` and
    `argmax` as they are, like the compiled op; since mmcv passes zeros, its gradient then goes to
    the first cell of the map.

    Args:
        input: (B, C, H, W).
        rois: (N, 5) image index and xyxy in image pixels, the end pixel included.
        output: filled; (N, C, pooled_height, pooled_width).
        argmax: filled; the shape of `output`, int: y * W + x of the greatest cell, -1 for none.
        pooled_height: bins along y.
        pooled_width: bins along x.
        spatial_scale: cells of the feature map per image pixel.
    """
    num_rows, num_columns = input.shape[2:]
    image, x1, y1, x2, y2 = widen(rois).unbind(1)
    top, bottom = y1 * spatial_scale, (y2 + 1) * spatial_scale
    left, right = x1 * spatial_scale, (x2 + 1) * spatial_scale
    bins_y = _bins(top, bottom, pooled_height, num_rows)
    bins_x = _bins(left, right, pooled_width, num_columns)
    valid = ((bottom > top) & (right > left)).tolist()
    for roi, index in enumerate(image.long().tolist()):
        if valid[roi]:
            output[roi], argmax[roi] = _pool(input[index], bins_y[roi], bins_x[roi])


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the derivative by the features to `grad_input` (B, C, H, W)."""
    num_channels, height, width = grad_input.shape[1:]
    channel = torch.arange(num_channels, device=argmax.device)
    plane = rois[:, 0].long()[:, None] * num_channels + channel
    cell = plane[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    # Many boxes add to a cell: a map in half precision would lose the small parts.
    grad = widen(grad_input)
    bin_grad = widen(grad_output).where(argmax >= 0, 0)
    grad.view(-1).index_add_(0, cell.flatten(), bin_grad.flatten())
    if grad is not grad_input:
        grad_input.copy_(grad)


def _bins(start: Tensor, end: Tensor, num_bins: int, num_cells: int) -> list[list[list[int]]]:
    """For each box and bin the first cell and the one past the last, cut at the map: N x P x 2."""
    length = ((end - start) / num_bins)[:, None]
    index = torch.arange(num_bins, device=start.device)
    first = (index * length + start[:, None]).floor()
    last = ((index + 1) * length + start[:, None]).ceil()
    return torch.stack([first, last], -1).clamp(0, num_cells).long().tolist()


def _pool(
    features: Tensor, bins_y: list[list[int]], bins_x: list[list[int]]
) -> tuple[Tensor, Tensor]:
    """Maximum and its cell for one box: (C, H, W) -> two of (C, P, Q).

    First along the rows, then along the columns: so that of equal cells the first in reading order
    wins, as in the compiled op. (Behind a ReLU whole bins are equal.)
    """
    width = features.size(2)
    rows = [_maximum(features[:, :, begin:end], dim=2) for begin, end in bins_x]
    row_value = torch.stack([value for value, _ in rows], 1)  # C x Q x H
    row_index = torch.stack(
        [index + begin for (_, index), (begin, _) in zip(rows, bins_x, strict=True)], 1
    )
    values, cells = [], []
    for begin, end in bins_y:
        value, row = _maximum(row_value[:, :, begin:end], dim=2)  # C x Q
        row = row + begin
        column = row_index.gather(2, row.clamp(max=features.size(1) - 1)[:, :, None])[:, :, 0]
        values.append(value)
        cells.append(row * width + column)
    value, cell = torch.stack(values, 1), torch.stack(cells, 1)
    empty = value == -torch.inf
    return value.where(~empty, 0), cell.where(~empty, -1).to(torch.int)


def _maximum(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Maximum and first index along `dim`; -inf and 0 over nothing."""
    if values.size(dim) > 0:
        return values.max(dim)
    shape = [size for axis, size in enumerate(values.shape) if axis != dim]
    return values.new_full(shape, -torch.inf), values.new_zeros(shape, dtype=torch.long)
