"""RoI Align, average and maximum: mmcv's `roi_align_forward` and `roi_align_backward`.

Paper: Mask R-CNN, He et al., ICCV 2017 (https://arxiv.org/abs/1703.06870).

A bin samples the features at a regular grid of points, by bilinear interpolation. Such a grid
separates: the interpolation at all points of a box is a matrix over the rows times the features
times a matrix over the columns, and the average over a bin averages rows of both matrices. So each
box costs two small matrix products on the part of the feature map that it covers, whatever the
number of points.

Letters: N boxes, B images, C channels, H W feature map, h w the part of it that a box needs,
P bins along an axis, G points of a bin along an axis (that of the box with most points).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmext.ops.precision import widen

# Entries of the interpolation matrices in flight: 8 MB in float32.
_ENTRIES_PER_BLOCK = 1 << 21
# What the compiled op returns for a bin without points, in maximum mode.
_NO_MAXIMUM = -10000.0


class _Axis(NamedTuple):
    """How the points of the boxes lie along one axis of the feature map."""

    points: Tensor  # (N, P, G) coordinate, in cells of the feature map
    low: Tensor  # (N, P, G) int64 cell at or below the point
    weight_low: Tensor  # (N, P, G) weight of that cell; 0 for points off the map or not used
    weight_high: Tensor  # (N, P, G) weight of the next cell
    num_points: Tensor  # (N,) int64 points of a bin, 0 for a box of zero size

    def averages(self, num_cells: int) -> Tensor:
        """(N, P, num_cells): weight of each cell in the average over each bin."""
        count = self.num_points.clamp(min=1)[:, None, None]
        index = torch.cat([self.low, (self.low + 1).clamp(max=num_cells - 1)], dim=2)
        weight = torch.cat([self.weight_low, self.weight_high], dim=2) / count
        return weight.new_zeros(*index.shape[:2], num_cells).scatter_add_(2, index, weight)


class _Window(NamedTuple):
    """The part of the feature map that a box needs, and the number of points in its bins."""

    image: int
    rows: slice
    columns: slice
    num_points_y: int
    num_points_x: int


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool the features under each box into `aligned_height` x `aligned_width` bins.

    Args:
        input: (B, C, H, W).
        rois: (N, 5) image index and xyxy in image pixels.
        output: filled; (N, C, aligned_height, aligned_width).
        argmax_y: filled in maximum mode; the shape of `output`, row of the greatest point.
        argmax_x: filled in maximum mode; its column.
        aligned_height: bins along y.
        aligned_width: bins along x.
        spatial_scale: cells of the feature map per image pixel.
        sampling_ratio: points of a bin along each axis; 0 takes one a cell, at least one.
        pool_mode: 0 maximum, 1 average.
        aligned: pixel centres lie at half-integers; without it, at integers, and boxes are at least
            one cell wide.

    Raises:
        ValueError: if the size of a box is not finite or, with `aligned`, negative (the compiled op
            fails, too).
    """
    size = (aligned_height, aligned_width)
    blocks = _blocks(input, rois, size, spatial_scale, sampling_ratio, aligned)
    for part, axis_y, axis_x, windows in blocks:
        if pool_mode == 0:
            best = argmax_y[part], argmax_x[part]
            _pool_maximum(input, axis_y, axis_x, windows, output[part], *best)
        else:
            _pool_average(input, axis_y, axis_x, windows, output[part])


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the derivative by the features to `grad_input` (B, C, H, W)."""
    # Many boxes add to a cell: a map in half precision would lose the small parts.
    grad = widen(grad_input)
    if pool_mode == 0:
        _spread_maximum(grad_output, rois, argmax_y, argmax_x, grad)
    else:
        size = (aligned_height, aligned_width)
        blocks = _blocks(grad, rois, size, spatial_scale, sampling_ratio, aligned)
        for part, axis_y, axis_x, windows in blocks:
            _spread_average(grad_output[part], axis_y, axis_x, windows, grad)
    if grad is not grad_input:
        grad_input.copy_(grad)


def _pool_average(
    input: Tensor, axis_y: _Axis, axis_x: _Axis, windows: list[_Window], output: Tensor
) -> None:
    average_y, average_x = axis_y.averages(input.size(2)), axis_x.averages(input.size(3))
    for roi, (image, rows, columns, *_) in enumerate(windows):
        features = widen(input[image, :, rows, columns])
        output[roi] = _interpolate(features, average_y[roi, :, rows], average_x[roi, :, columns])


def _spread_average(
    grad_output: Tensor, axis_y: _Axis, axis_x: _Axis, windows: list[_Window], grad: Tensor
) -> None:
    average_y, average_x = axis_y.averages(grad.size(2)), axis_x.averages(grad.size(3))
    for roi, (image, rows, columns, *_) in enumerate(windows):
        grad[image, :, rows, columns] += _interpolate(
            widen(grad_output[roi]), average_y[roi, :, rows].T, average_x[roi, :, columns].T
        )


def _pool_maximum(
    input: Tensor,
    axis_y: _Axis,
    axis_x: _Axis,
    windows: list[_Window],
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
) -> None:
    num_bins_y, num_bins_x = output.shape[2:]
    bin_y = torch.arange(num_bins_y, device=input.device)[:, None]
    bin_x = torch.arange(num_bins_x, device=input.device)
    for roi, (image, rows, columns, num_y, num_x) in enumerate(windows):
        if num_y == 0 or num_x == 0:
            output[roi] = _NO_MAXIMUM
            argmax_y[roi] = argmax_x[roi] = -1
            continue
        values = _interpolate(
            widen(input[image, :, rows, columns]),
            _point_weights(axis_y, roi, num_y, rows),
            _point_weights(axis_x, roi, num_x, columns),
        )
        # C x (Py Gy) x (Px Gx) -> C x Py x Px x (Gy Gx)
        values = values.unflatten(2, (num_bins_x, num_x)).unflatten(1, (num_bins_y, num_y))
        output[roi], best = values.transpose(2, 3).flatten(3).max(-1)
        argmax_y[roi] = axis_y.points[roi, bin_y, best.div(num_x, rounding_mode='floor')]
        argmax_x[roi] = axis_x.points[roi, bin_x, best % num_x]


def _point_weights(axis: _Axis, roi: int, num_points: int, cells: slice) -> Tensor:
    """(P G, h): weight of each cell of the window in each point of one box."""
    low = axis.low[roi, :, :num_points].reshape(-1, 1) - cells.start
    high = (low + 1).clamp(max=cells.stop - cells.start - 1)
    weight_low = axis.weight_low[roi, :, :num_points].reshape(-1, 1)
    weight_high = axis.weight_high[roi, :, :num_points].reshape(-1, 1)
    weights = weight_low.new_zeros(len(low), cells.stop - cells.start)
    return weights.scatter_add_(1, low, weight_low).scatter_add_(1, high, weight_high)


def _spread_maximum(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad: Tensor
) -> None:
    _, num_channels, height, width = grad.shape
    # Row -1 marks a bin without points; it would otherwise count as the edge of the map.
    bin_grad = widen(grad_output).where(argmax_y != -1, 0)
    channel = torch.arange(num_channels, device=grad.device)
    plane = (rois[:, 0].long()[:, None] * num_channels + channel)[:, :, None, None]  # N x C x 1 x 1
    for row, row_weight in _taps(widen(argmax_y), height):
        for column, column_weight in _taps(widen(argmax_x), width):
            cell = (plane * height + row) * width + column
            weighted = bin_grad * row_weight * column_weight
            grad.view(-1).index_add_(0, cell.flatten(), weighted.flatten())


def _interpolate(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ values @ columns^T for each channel: (C, h, w), (P, h), (Q, w) -> (C, P, Q)."""
    narrow = values @ columns.T
    return (narrow.transpose(1, 2) @ rows.T).transpose(1, 2)


def _blocks(
    features: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Iterator[tuple[slice, _Axis, _Axis, list[_Window]]]:
    """The points of the boxes, a block of boxes at a time, so that the matrices fit in memory."""
    height, width = features.shape[2:]
    per_roi = size[0] * height + size[1] * width
    num_rois = max(1, _ENTRIES_PER_BLOCK // max(1, per_roi))
    for begin in range(0, len(rois), num_rois):
        part = slice(begin, begin + num_rois)
        image, x1, y1, x2, y2 = widen(rois[part]).unbind(1)
        offset = 0.5 if aligned else 0.0
        start, end = y1 * spatial_scale - offset, y2 * spatial_scale - offset
        axis_y = _axis(start, end, size[0], height, sampling_ratio, aligned)
        start, end = x1 * spatial_scale - offset, x2 * spatial_scale - offset
        axis_x = _axis(start, end, size[1], width, sampling_ratio, aligned)
        yield part, axis_y, axis_x, _windows(image, axis_y, axis_x, (height, width))


def _axis(
    start: Tensor, end: Tensor, num_bins: int, num_cells: int, sampling_ratio: int, aligned: bool
) -> _Axis:
    """Lay the points of the boxes (start, end: (N,) in cells) along one axis of `num_cells`."""
    length = end - start if aligned else (end - start).clamp(min=1)
    wrong = length[~((length >= 0) & length.isfinite())].tolist()
    if wrong:
        raise ValueError(
            f'roi_align got a box of size {wrong[0]:g} (in cells of the feature map). Expected '
            'finite corners with x1 <= x2 and y1 <= y2. Clip the boxes before pooling; if they are '
            'nan, lower the learning rate'
        )
    bin_length = length / num_bins
    num_points = bin_length.ceil().long()
    if sampling_ratio > 0:
        num_points = torch.full_like(num_points, sampling_ratio)
    # Boxes with fewer points than others repeat their last one, without weight.
    count = num_points.clamp(min=1)[:, None, None]
    step = torch.arange(int(count.max()), device=start.device)
    position = torch.minimum(step, count - 1) + 0.5
    # N x P x G; the order of the sums is the compiled op's.
    bin_length = bin_length[:, None, None]
    bin_start = torch.arange(num_bins, device=start.device)[:, None] * bin_length
    points = start[:, None, None] + bin_start + position * bin_length / count
    (low, weight_low), (_, weight_high) = _taps(points, num_cells)
    used = step < num_points[:, None, None]
    return _Axis(points, low, weight_low * used, weight_high * used, num_points)


def _taps(points: Tensor, num_cells: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The cells below and above each point with their weights.

    A point more than one cell off the map weighs nothing; nearer to the map, the border cell counts
    in full.
    """
    inside = (points >= -1) & (points <= num_cells)
    clamped = points.clamp(0, num_cells - 1)
    low = clamped.long()
    fraction = clamped - low
    high = (low + 1).clamp(max=num_cells - 1)
    return (low, (1 - fraction) * inside), (high, fraction * inside)


def _windows(
    image: Tensor, axis_y: _Axis, axis_x: _Axis, map_size: tuple[int, int]
) -> list[_Window]:
    """The windows of the boxes, with one transfer from the device for all."""
    columns = [image.long()]
    for axis, num_cells in zip((axis_y, axis_x), map_size, strict=True):
        low = axis.low.flatten(1)
        columns += [low.amin(1), (low.amax(1) + 2).clamp(max=num_cells), axis.num_points]
    return [
        _Window(index, slice(top, bottom), slice(left, right), num_y, num_x)
        for index, top, bottom, num_y, left, right, num_x in torch.stack(columns, 1).tolist()
    ]
