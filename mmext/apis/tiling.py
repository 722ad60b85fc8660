"""Windows over a large photo, and the way of what was found in one of them into the frame of the photo.

A network sees a photo shrunk to its input size, where an object of a few pixels vanishes. Windows of about the
input's size keep it; the overlap lets an object that one window cuts be seen whole by the next (slicing-aided
inference, arXiv:2202.06934). What the windows found twice is joined in `tile_merging`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pycocotools.mask as coco_mask
import torch
from mmengine.structures import InstanceData

from mmext.models.yolo.assembly import encode_roi

# A box this near to an inner edge of its window, as a fraction of the window's side, counts as cut by it:
# networks rarely place a box on the last pixel. Counting one too many costs nothing.
EDGE_MARGIN = 0.02


class Window(NamedTuple):
    """Columns x1 .. x2 - 1 and rows y1 .. y2 - 1 of a photo."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def area(self) -> int:
        """Pixels, 0 where nothing is left."""
        return max(self.x2 - self.x1, 0) * max(self.y2 - self.y1, 0)

    def common(self, other: 'Window') -> 'Window':
        """What both see; its area is 0 where that is nothing."""
        return Window(
            max(self.x1, other.x1),
            max(self.y1, other.y1),
            min(self.x2, other.x2),
            min(self.y2, other.y2),
        )

    def cuts(self, bbox: np.ndarray, size: tuple[int, int]) -> bool:
        """Whether something of this extent may go on outside the window.

        Args:
            bbox: (4,) xyxy in the photo.
            size: (height, width) of the photo, whose own border cuts nothing.
        """
        height, width = size
        margin_x = EDGE_MARGIN * (self.x2 - self.x1)
        margin_y = EDGE_MARGIN * (self.y2 - self.y1)
        x1, y1, x2, y2 = bbox
        return bool(
            (self.x1 > 0 and x1 < self.x1 + margin_x)
            or (self.y1 > 0 and y1 < self.y1 + margin_y)
            or (self.x2 < width and x2 > self.x2 - margin_x)
            or (self.y2 < height and y2 > self.y2 - margin_y)
        )


@dataclass(frozen=True)
class Tiling:
    """How a photo is cut.

    Attributes:
        size: side of a window in pixels of the photo. The test pipeline then brings the window to the network's
            input size, so a window smaller than that enlarges the objects.
        overlap: part of a window that the next one sees again, 0 <= overlap < 1. Objects up to `overlap * size`
            are seen whole by at least one window.
        whole: whether the whole photo is one more window, for objects larger than a window.
        threshold: overlap above which two findings are one object, see `tile_merging.merge_tiles`.

    Raises:
        ValueError: a number outside its range.
    """

    size: int
    overlap: float = 0.2
    whole: bool = False
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(
                f'tile: got {self.size}, expected a number of pixels above 0, such as 640'
            )
        if not 0 <= self.overlap < 1:
            raise ValueError(
                f'overlap: got {self.overlap}, expected a part of the tile, 0 <= overlap < 1, such as 0.2'
            )
        if not 0 < self.threshold < 1:
            raise ValueError(f'threshold: got {self.threshold}, expected 0 < threshold < 1')

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """The windows of a photo, row by row; with `whole` the photo itself comes last.

        Windows at the right and bottom are moved inwards instead of padded. A photo that is not longer than a
        window has one in this direction.

        Args:
            size: (height, width) of the photo.
        """
        height, width = size
        found = [
            Window(x, y, min(x + self.size, width), min(y + self.size, height))
            for y in self._starts(height)
            for x in self._starts(width)
        ]
        photo = Window(0, 0, width, height)
        return [*found, photo] if self.whole and found != [photo] else found

    def _starts(self, length: int) -> list[int]:
        if length <= self.size:
            return [0]
        step = max(1, round(self.size * (1 - self.overlap)))
        last = length - self.size
        return [*range(0, last, step), last]


def place(instances: InstanceData, window: Window, size: tuple[int, int]) -> InstanceData:
    """Move what was found in a window into the frame of the photo, one mask at a time.

    Args:
        instances: `bboxes` (N, 4) xyxy, `scores` (N,), `labels` (N,) and maybe `masks`, (N, h, w) bool or N
            COCO run-length dicts, in the frame of the window.
        window: where it lies in the photo.
        size: (height, width) of the photo.

    Returns:
        The same four on the CPU in the frame of the photo, masks as run lengths. Boxes end with the window: some
        detectors' reach beyond it, where nothing was seen.
    """
    lowest, highest = torch.tensor(window, dtype=torch.float32).split(2)
    upper_left, lower_right = instances.bboxes.detach().cpu().float().split(2, dim=1)
    upper_left = (upper_left + lowest).clamp(lowest, highest)
    # A network may give a right side left of the left one; then nothing remains.
    lower_right = (lower_right + lowest).clamp(lowest, highest).maximum(upper_left)
    moved = torch.cat([upper_left, lower_right], dim=1)
    result = InstanceData(
        bboxes=moved, scores=instances.scores.cpu(), labels=instances.labels.cpu()
    )
    if 'masks' in instances:
        fills_photo = window == (0, 0, size[1], size[0])
        codes = [mask if isinstance(mask, dict) else _encode(mask) for mask in instances.masks]
        result.masks = codes if fills_photo else [_move(code, window, size) for code in codes]
    return result


def _encode(mask: torch.Tensor) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.detach().cpu().numpy().astype(np.uint8)))


def _move(code: dict, window: Window, size: tuple[int, int]) -> dict:
    """A run-length code of the window's size as one of the photo's size."""
    x, y, width, height = coco_mask.toBbox(code).astype(int)
    inside = coco_mask.decode(code)[y : y + height, x : x + width].astype(bool)
    return encode_roi(inside, window.x1 + x, window.y1 + y, size)
