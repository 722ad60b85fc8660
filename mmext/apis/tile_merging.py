"""One object out of what several windows of a photo show of it.

Masks stay run lengths: areas, intersections and unions are computed on the codes, and no more than the objects of
two windows are compared at a time.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Protocol

import numpy as np
import pycocotools.mask as coco_mask
import torch
from mmengine.structures import InstanceData
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmext.apis.tiling import Window

# Boxes that agree this well are one object if their masks meet at all: two masks of a crack two pixels wide may
# lie a pixel apart. A tile's own suppression takes such boxes for one object too.
SAME_BOX_IOU = 0.7


class Regions(Protocol):
    """The areas of N objects, by index."""

    def area(self, index: int) -> float:
        """Pixels of one."""

    def common(self, first: int, second: int) -> float:
        """Pixels of both."""

    def within(self, index: int, window: Window) -> float:
        """Pixels of one inside a window."""


class BoxRegions:
    """Boxes (N, 4) xyxy as areas."""

    def __init__(self, bboxes: np.ndarray) -> None:
        self.bboxes = bboxes

    def area(self, index: int) -> float:
        x1, y1, x2, y2 = self.bboxes[index]
        return float((x2 - x1) * (y2 - y1))

    def common(self, first: int, second: int) -> float:
        return self.within(first, self.bboxes[second])

    def within(self, index: int, window: Window | np.ndarray) -> float:
        lower = np.maximum(self.bboxes[index][:2], window[:2])
        upper = np.minimum(self.bboxes[index][2:], window[2:])
        return float(np.prod(np.clip(upper - lower, 0, None)))


class MaskRegions:
    """N COCO run-length masks of one size as areas."""

    def __init__(self, masks: Sequence[dict]) -> None:
        self.masks = list(masks)
        # One by one: pycocotools counts the masks of a list in 8 bits.
        self.areas = [float(coco_mask.area(mask)) for mask in self.masks]
        x, y, width, height = coco_mask.toBbox(self.masks).reshape(-1, 4).T
        self.extents = np.stack([x, y, x + width, y + height], axis=1)

    def area(self, index: int) -> float:
        return self.areas[index]

    def common(self, first: int, second: int) -> float:
        return _area_of_both(self.masks[first], self.masks[second])

    def within(self, index: int, window: Window) -> float:
        lower, upper = self.extents[index][:2], self.extents[index][2:]
        if (lower >= window[:2]).all() and (upper <= window[2:]).all():
            return self.area(index)
        height, width = self.masks[index]['size']
        corner = [window.x1, window.y1, window.x2 - window.x1, window.y2 - window.y1]
        (rectangle,) = coco_mask.frPyObjects(np.array([corner], dtype=float), height, width)
        return _area_of_both(self.masks[index], rectangle)


def merge_tiles(
    parts: Sequence[InstanceData],
    windows: Sequence[Window],
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
) -> InstanceData:
    """Join the objects of one photo that were found in several of its windows.

    Two findings of one class in two windows are one object if

    - they agree where both windows look: in the windows' common part their intersection over union is above
      the threshold. So an object longer than the overlap is joined although its pieces share little; or
    - the smaller one is cut by its window's edge and lies in the other: intersection over the smaller area above
      the threshold (arXiv:2202.06934). An uncut object inside another stays: no window took them for one.

    What is so connected, over any number of windows, becomes one object with the highest score. Its mask and box
    are those of the smallest window that sees all of it; where none does, their union. The union of complete views
    would be as wide as the coarsest of them.

    Args:
        parts: for each window `bboxes`, `scores`, `labels` and maybe run-length `masks` in the frame of the
            photo, see `tiling.place`.
        windows: where they were found.
        size: (height, width) of the photo.
        threshold: in (0, 1).

    Returns:
        The same fields, the highest score first.
    """
    joined = _concatenate(parts)
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    bboxes = joined.bboxes.numpy()
    matcher = _Matcher(joined, owner, windows, size, threshold)
    links = np.array(list(matcher.links()), dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(links)), links.T), shape=(len(owner), len(owner)))
    _, group = connected_components(graph, directed=False)

    scores = joined.scores.numpy()
    members = [np.flatnonzero(group == index) for index in np.unique(group)]
    members.sort(key=lambda own: -scores[own].max())
    # What each object is made of: the findings of the window that sees all of it, or all findings.
    sources = [
        own[_best_view(bboxes[own], scores[own], owner[own], windows, size)] for own in members
    ]
    best = np.array([own[scores[own].argmax()] for own in members], dtype=int)
    result = joined[torch.from_numpy(best)]
    boxes = [np.r_[bboxes[own, :2].min(0), bboxes[own, 2:].max(0)] for own in sources]
    result.bboxes = torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4))
    if 'masks' in joined:
        result.masks = [_union([joined.masks[index] for index in own]) for own in sources]
    return result


class _Matcher:
    """Finds the pairs of findings that are one object; arguments as in `merge_tiles`."""

    def __init__(
        self,
        joined: InstanceData,
        owner: np.ndarray,
        windows: Sequence[Window],
        size: tuple[int, int],
        threshold: float,
    ) -> None:
        self.bboxes = joined.bboxes.numpy()
        self.labels = joined.labels.numpy()
        self.owner = owner
        self.windows = windows
        self.threshold = threshold
        self.boxes = BoxRegions(self.bboxes)
        has_masks = 'masks' in joined and len(owner) > 0
        self.regions: Regions = MaskRegions(joined.masks) if has_masks else self.boxes
        self.is_cut = [
            windows[tile].cuts(bbox, size) for bbox, tile in zip(self.bboxes, owner, strict=True)
        ]

    def links(self) -> Iterator[tuple[int, int]]:
        """Index pairs, each once."""
        for first, second in combinations(range(len(self.windows)), 2):
            window = self.windows[first].common(self.windows[second])
            if window.area:
                for pair in self._candidates(first, second):
                    if self._is_same(*pair, window):
                        yield pair

    def _candidates(self, first: int, second: int) -> Iterator[tuple[int, int]]:
        """Findings of two windows with one class and boxes that meet."""
        a = np.flatnonzero(self.owner == first)
        b = np.flatnonzero(self.owner == second)
        lower = np.maximum(self.bboxes[a, None, :2], self.bboxes[None, b, :2])
        upper = np.minimum(self.bboxes[a, None, 2:], self.bboxes[None, b, 2:])
        meet = (upper > lower).all(-1) & (self.labels[a, None] == self.labels[None, b])
        for i, j in np.argwhere(meet).tolist():
            yield int(a[i]), int(b[j])

    def _is_same(self, first: int, second: int, window: Window) -> bool:
        """See `merge_tiles`; `window` is what both windows see."""
        common = self.regions.common(first, second)
        if common == 0:
            return False
        if _iou(self.regions, first, second, common, window) > self.threshold:
            return True
        common_box = self.boxes.common(first, second)
        if _iou(self.boxes, first, second, common_box, window) > SAME_BOX_IOU:
            return True
        smaller = min(first, second, key=self.regions.area)
        is_inside = common > self.threshold * self.regions.area(smaller)
        return self.is_cut[smaller] and is_inside


def _iou(regions: Regions, first: int, second: int, common: float, window: Window) -> float:
    """Intersection over union inside a window, which holds all of the intersection."""
    union = regions.within(first, window) + regions.within(second, window) - common
    return common / union if union > 0 else 0.0


def _best_view(
    bboxes: np.ndarray,
    scores: np.ndarray,
    owner: np.ndarray,
    windows: Sequence[Window],
    size: tuple[int, int],
) -> np.ndarray:
    """Which findings of one object make its shape: a mask (n,) over them."""
    extent = np.r_[bboxes[:, :2].min(0), bboxes[:, 2:].max(0)]
    complete = [i for i, tile in enumerate(owner.tolist()) if not windows[tile].cuts(extent, size)]
    if not complete:
        return np.ones(len(owner), dtype=bool)
    best = min(complete, key=lambda i: (windows[int(owner[i])].area, -scores[i]))
    return owner == owner[best]


def _concatenate(parts: Sequence[InstanceData]) -> InstanceData:
    result = InstanceData(
        bboxes=torch.cat([part.bboxes for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
    )
    if 'masks' in parts[0]:
        result.masks = [mask for part in parts for mask in part.masks]
    return result


def _area_of_both(first: dict, second: dict) -> float:
    return float(coco_mask.area(coco_mask.merge([first, second], intersect=True)))


def _union(masks: Sequence[dict]) -> dict:
    return masks[0] if len(masks) == 1 else coco_mask.merge(list(masks))
