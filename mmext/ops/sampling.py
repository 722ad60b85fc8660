"""Bilinear sampling at free positions, with zeros around the map, for the deformable ops.

A position is a weighted sum of four rows of a table of features, and so is a sum over several
positions. `torch.nn.functional.embedding_bag` does that in one fused pass, with derivatives by the
table and by the weights.

`grid_sample` is not used, because it takes positions scaled to [-1, 1]: the rounding moves a
position that lies exactly on a cell to either side of it, and with that the derivative by the
position. The offsets of a new deformable convolution are zero, so all of its positions lie exactly
on cells.

Letters: M positions, S positions summed into one output, N rows of the table, C channels.
"""

import torch
from torch import Tensor
from torch.nn import functional


def bilinear_taps(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four cells around each position, and their weights.

    Args:
        y: (...) row of the position; 0 is the centre of the first cell. Positions outside (-1,
            height), nan included, weigh nothing.
        x: (...) its column.
        height: rows of the map.
        width: columns of the map.

    Returns:
        The index (..., 4) int64 of each cell, row * width + column, and the weight (..., 4), which
        is differentiable by `y` and `x`; cells outside the map have weight 0 and the index of some
        cell inside.
    """
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = y.where(inside, 0), x.where(inside, 0)
    top, left = y.detach().floor(), x.detach().floor()
    indices, weights = [], []
    for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
        for column, column_weight in ((left, left + 1 - x), (left + 1, x - left)):
            valid = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            # In integers: a float32 counts exactly only up to 16 million cells.
            cell = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            indices.append(cell)
            weights.append(row_weight * column_weight * valid)
    return torch.stack(indices, -1), torch.stack(weights, -1)


def weighted_rows(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sums of weighted rows: table (N, C), index (M, 4 S), weight (M, 4 S) -> (M, C).

    Differentiable by `table` and `weight`. All of float32 or float64.
    """
    return functional.embedding_bag(index, table, mode='sum', per_sample_weights=weight)
