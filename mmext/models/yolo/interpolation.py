"""Bilinear sampling at the pixels of an image, one axis at a time: weights that all objects share, and an object's own.

The pixels lie on a grid along the axes, so sampling is two matrix products, with the weights along y and along x.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class AxisWeights:
    """Linear interpolation along one axis of the prototypes at every output pixel.

    Attributes:
        centres: (P,) centres of the output pixels, in pixels of the network input.
        weights: (P, size) of the prototypes' cells. The outermost cells reach beyond their centres, as those of
            `F.interpolate` do.
    """

    def __init__(
        self, num_pixels: int, scale: float, offset: float, input_size: int, size: int
    ) -> None:
        self.centres = (torch.arange(num_pixels) + 0.5) * scale + offset
        cell = (self.centres / input_size * size - 0.5).clamp(0, size - 1)
        self.weights = linear_weights(cell, torch.arange(size, dtype=cell.dtype))
        self._first = cell.long().tolist()

    def cells(self, pixels: slice) -> slice:
        """The cells that have a weight at some of the pixels."""
        return slice(self._first[pixels.start], self._first[pixels.stop - 1] + 2)

    def move_to(self, device: torch.device) -> None:
        self.centres, self.weights = self.centres.to(device), self.weights.to(device)


def cell_weights(
    centres: Tensor, pixels: Sequence[tuple[int, ...]], edges: Tensor, num_cells: int
) -> Sequence[Tensor]:
    """Weights of the cells of some objects at their pixels along an axis.

    Args:
        centres: of all pixels, see `AxisWeights`.
        pixels: first pixel of each object and one more than its last.
        edges: (n, 2) between which its cells lie.
        num_cells: R.

    Returns:
        For each (pixels, R).
    """
    lengths = [stop - start for start, stop in pixels]
    places = torch.cat([centres[start:stop] for start, stop in pixels])
    cells_per_pixel = num_cells / (edges[:, 1] - edges[:, 0])
    scale = torch.stack([edges[:, 0], cells_per_pixel], dim=1)
    low, factor = scale.repeat_interleave(torch.tensor(lengths).to(scale.device), dim=0).unbind(1)
    cells = torch.arange(num_cells).to(centres)
    return linear_weights((places - low) * factor - 0.5, cells).split(lengths)


def linear_weights(position: Tensor, cells: Tensor) -> Tensor:
    """Weights (P, size) of cells 0 .. size - 1 at positions (P,) in cells; none from one cell outside on."""
    distance = (position[:, None] - cells).abs_()
    return distance.neg_().add_(1).clamp_(min=0)
