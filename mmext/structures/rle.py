"""COCO run lengths (RLE) of masks, written from and read into the rectangle that holds the mask.

An RLE is a dict: `size` [H, W] and `counts`, the lengths of the runs of zeros and ones by turns, compressed to bytes
or as a list. Runs go down the columns: the pixel (row, column) has the index column * H + row. No function here needs
memory for the whole image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask


class RoiMask(NamedTuple):
    """A mask as the content of a rectangle outside of which it is empty.

    Attributes:
        mask: (rows, columns) bool; (0, 0) for an empty mask.
        x1: column of the rectangle's left edge in the image.
        y1: row of its top edge.
    """

    mask: np.ndarray
    x1: int
    y1: int


def encode_roi(mask: np.ndarray, x1: int, y1: int, size: tuple[int, int]) -> dict:
    """Compressed COCO RLE of a mask that is empty outside one rectangle.

    Args:
        mask: (rows, columns) bool, the rectangle's content.
        x1: column of the rectangle's left edge in the image.
        y1: row of its top edge.
        size: (height, width) of the image.

    Returns:
        `size` [height, width], `counts` bytes.
    """
    columns = np.zeros((mask.shape[1], mask.shape[0] + 2), dtype=bool)
    columns[:, 1:-1] = mask.T
    return encode_columns(columns, x1, y1, size)


def encode_columns(columns: np.ndarray, x1: int, y1: int, size: tuple[int, int]) -> dict:
    """`encode_roi` of a rectangle that lies in memory as it is read: saves a copy.

    Args:
        columns: (columns, rows + 2) bool, contiguous: the rectangle's columns, each with a zero before and after it, so
            that no run goes on in the next one.
        x1: see `encode_roi`.
        y1: the same.
        size: the same.
    """
    height, width = size
    pixels = columns.ravel()
    column, row = np.divmod(np.flatnonzero(pixels[1:] != pixels[:-1]), columns.shape[1])
    edges = (x1 + column) * height + y1 + row  # start, end, start, end, ...
    if columns.shape[1] == height + 2:
        edges = _join_columns(edges)
    bounds = np.empty(len(edges) + 2, dtype=np.int64)
    bounds[0], bounds[1:-1], bounds[-1] = 0, edges, height * width
    counts = np.diff(bounds)
    if counts[-1] == 0:
        counts = counts[:-1]  # the image ends with a set pixel
    # As an array: of a list, pycocotools would make one, number by number.
    return coco_mask.frPyObjects({'size': [height, width], 'counts': counts}, height, width)


def _join_columns(edges: np.ndarray) -> np.ndarray:
    """Starts and ends by turns, without those between a run to a column's foot and the one from the next one's head."""
    inner = edges[1:-1].reshape(-1, 2)
    separate = inner[:, 0] != inner[:, 1]
    return np.concatenate([edges[:1], inner[separate].ravel(), edges[-1:]])


def decode_roi(rle: dict) -> RoiMask:
    """The smallest rectangle that holds the mask, and its content.

    Args:
        rle: `size` [height, width] and `counts`, compressed (bytes or str) or a list.
    """
    height = rle['size'][0]
    edges = run_lengths(rle['counts']).cumsum()
    ends = edges[1::2]
    starts = edges[0::2][: len(ends)]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if len(starts) == 0:
        return RoiMask(np.zeros((0, 0), dtype=bool), 0, 0)
    first_column, first_row = np.divmod(starts, height)
    last_column, last_row = np.divmod(ends - 1, height)
    x1, columns = int(first_column[0]), int(last_column[-1] - first_column[0]) + 1
    if (first_column != last_column).any():
        # A run over the foot of a column: the rectangle is as tall as the image, and indices only shift.
        y1, rows = 0, height
    else:
        y1 = int(first_row.min())
        rows = int(last_row.max()) - y1 + 1
    starts = (first_column - x1) * rows + first_row - y1
    ends = (last_column - x1) * rows + last_row - y1 + 1
    bounds = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [rows * columns]])
    values = np.arange(len(bounds) - 1) % 2 == 1
    mask = np.repeat(values, np.diff(bounds)).reshape(columns, rows).T
    return RoiMask(mask, x1, y1)


def run_lengths(counts: bytes | str | Sequence[int]) -> np.ndarray:
    """Lengths of the runs, zeros first: (n,) int64.

    The compressed form stores each number in characters from '0' on, five bits a character, the lowest first; 32 in
    a character says that the number goes on, 16 in its last one that it is negative. From the fourth number on it is
    the difference to the last but one before.
    """
    if not isinstance(counts, (bytes, str)):
        return np.asarray(counts, dtype=np.int64)
    text = counts.encode() if isinstance(counts, str) else counts
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - ord('0')
    last = np.flatnonzero(codes & 32 == 0)  # the last character of each number
    first = np.concatenate([[0], last[:-1] + 1])
    digit = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    lengths = np.add.reduceat((codes & 31) << (5 * digit), first)
    lengths -= (codes[last] >> 4 & 1) << (5 * (digit[last] + 1))
    for phase in (1, 2):
        lengths[phase::2] = lengths[phase::2].cumsum()
    return lengths
