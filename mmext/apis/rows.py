"""Large images in pieces: how many rows at a time, and enlarged maps of which only the rows in hand exist.

Legend: h, w of a small map; H, W of the image.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

# Of one piece: some tens of bytes are in use for each of its pixels.
CHUNK_PIXELS = 2**20


def row_chunks(
    top: int, bottom: int, width: int, pixels: int = CHUNK_PIXELS
) -> Iterator[tuple[int, int]]:
    """First row and row behind the last of each piece of `top..bottom`, of about `pixels` pixels."""
    step = max(1, pixels // max(1, width))
    for start in range(top, bottom, step):
        yield start, min(start + step, bottom)


class RowUpsampler:
    """Bilinear enlargement of a map, row by row.

    The same as `cv2.resize` with INTER_LINEAR (pixel centres at .5, border values kept), but any rows are made by
    themselves, equal to those of the whole.

    Args:
        low: (h, w) or (h, w, C) with C <= 4, float32.
        size: (H, W), at least as large.
    """

    def __init__(self, low: NDArray[np.float32], size: tuple[int, int]) -> None:
        height, width = size
        self._wide = cv2.resize(low, (width, len(low)), interpolation=cv2.INTER_LINEAR)
        last = len(low) - 1
        position = ((np.arange(height) + 0.5) * len(low) / height - 0.5).clip(0, last)
        self._above = np.minimum(position.astype(np.intp), max(last - 1, 0))
        self._below = np.minimum(self._above + 1, last)
        self._share = (position - self._above).astype(np.float32)

    def rows(self, top: int, bottom: int) -> NDArray[np.float32]:
        """(bottom - top, W[, C]): these rows of the enlarged map, to be written into at will."""
        above = self._wide[self._above[top:bottom]]
        below = self._wide[self._below[top:bottom]]
        below -= above
        below *= self._share[top:bottom].reshape(-1, *[1] * (above.ndim - 1))
        above += below
        return above
