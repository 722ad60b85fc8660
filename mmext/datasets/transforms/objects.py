"""The objects of one image as plain arrays: how to read, measure, drop and write them.

All coordinates are continuous: pixel (row, column) covers [column, column + 1) x [row, row + 1),
its centre lies at (column + .5, row + .5), and the box of a mask reaches from its first column to
its last column + 1.

Legend: n objects, h x w pixels.
"""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes
from mmdet.structures.mask import BitmapMasks

# Everything in a results dict that has one entry per object, besides boxes and masks.
PER_OBJECT_KEYS = ('gt_bboxes_labels', 'gt_ignore_flags')


class Objects(NamedTuple):
    """Boxes and masks of one image.

    Attributes:
        boxes: (n, 4) float32 xyxy in pixels.
        masks: (n, h, w) uint8 in {0, 1}; None if the annotation has no masks.
    """

    boxes: np.ndarray
    masks: np.ndarray | None


class DropRule(NamedTuple):
    """Which objects a transform leaves out, because too little of them can be seen afterwards.

    Attributes:
        min_side: Boxes of which a side is this many pixels or shorter are dropped.
        max_aspect: Boxes whose long side is this many times the short side, or more, are dropped.
        min_mask_ratio: Smallest visible fraction of the object's own area, where it has a mask.
        min_box_ratio: The same where it has only a box.
    """

    min_side: float
    max_aspect: float
    min_mask_ratio: float
    min_box_ratio: float

    def keeps(self, objects: Objects, visible: np.ndarray) -> np.ndarray:
        """Say which objects stay.

        Args:
            objects: The objects after the transform.
            visible: (n,) fraction of each object's area that is still inside the image, in [0, 1].

        Returns:
            (n,) bool.
        """
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        short, long = sides.min(axis=1), sides.max(axis=1)
        min_ratio = self.min_box_ratio if objects.masks is None else self.min_mask_ratio
        return (
            (short > self.min_side)
            & (long < self.max_aspect * np.maximum(short, 1e-6))
            & (visible > min_ratio)
        )


def read_objects(results: dict) -> Objects | None:
    """Take boxes and masks out of a results dict; polygons become bitmaps.

    Args:
        results: An mmdet sample. `gt_bboxes` may be HorizontalBoxes or an (n, 4) array; `gt_masks`
            BitmapMasks, PolygonMasks or absent.

    Returns:
        The objects, or None if the sample carries no annotation (inference).

    Raises:
        ValueError: If the sample carries a semantic map, which these transforms do not move.
    """
    if results.get('gt_seg_map') is not None:
        raise ValueError(
            'got a sample with gt_seg_map; the geometric transforms of mmext move boxes and '
            'instance masks only. Load with with_seg=False, or use the transforms of mmdet / mmseg'
        )
    if results.get('gt_bboxes') is None:
        return None
    boxes = results['gt_bboxes']
    boxes = boxes.numpy() if isinstance(boxes, BaseBoxes) else np.asarray(boxes)
    masks = results.get('gt_masks')
    arrays = None if masks is None else masks.to_ndarray().astype(np.uint8, copy=False)
    return Objects(boxes.reshape(-1, 4).astype(np.float32, copy=False), arrays)


def select_objects(results: dict, objects: Objects, keep: np.ndarray) -> Objects:
    """Keep some objects, and their labels and ignore flags in `results`.

    Args:
        results: The sample; its labels and flags are changed in place, boxes and masks are not.
        objects: The objects of the sample.
        keep: (n,) bool.

    Returns:
        The objects that stay.
    """
    if keep.all():
        return objects
    for key in PER_OBJECT_KEYS:
        if key in results:
            results[key] = results[key][keep]
    return Objects(objects.boxes[keep], None if objects.masks is None else objects.masks[keep])


def write_objects(results: dict, objects: Objects) -> None:
    """Put boxes and masks back into a sample, whose image is in place already."""
    results['gt_bboxes'] = HorizontalBoxes(np.ascontiguousarray(objects.boxes, dtype=np.float32))
    if objects.masks is not None:
        results['gt_masks'] = BitmapMasks(objects.masks, *results['img'].shape[:2])


def mask_extents(masks: np.ndarray) -> np.ndarray:
    """Find the tight box of each mask.

    Args:
        masks: (n, h, w) uint8.

    Returns:
        (n, 4) int64 xyxy; all zeros for an empty mask.
    """
    boxes = np.array([cv2.boundingRect(mask) for mask in masks], dtype=np.int64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def follow_masks(objects: Objects) -> Objects:
    """Tighten each box to its mask; a box without any mask pixel stays as it is."""
    if objects.masks is None:
        return objects
    extents = mask_extents(objects.masks)
    has_mask = extents[:, 2] > extents[:, 0]
    boxes = np.where(has_mask[:, None], extents, objects.boxes).astype(np.float32)
    return Objects(boxes, objects.masks)


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip (n, 4) xyxy boxes to an image of size (W, H)."""
    return np.clip(boxes, 0, np.array([*size, *size], dtype=np.float32))


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Compute the areas (n,) of (n, 4) xyxy boxes; 0 where a box is turned inside out."""
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def mask_areas(masks: Iterable[np.ndarray]) -> np.ndarray:
    """Count the pixels (n,) of n uint8 masks (h, w)."""
    return np.array([cv2.countNonZero(mask) for mask in masks], dtype=np.int64)


def copy_window(source: np.ndarray, left: int, top: int, target: np.ndarray) -> None:
    """Fill `target` with the window of `source` whose top left corner is (left, top).

    Args:
        source: (h, w) or (h, w, c).
        left: May be negative, as may top: the window may leave the source on any side.
        top: See left.
        target: (H, W) or (H, W, c), changed in place; it keeps its values outside the source.
    """
    (height, width), (target_height, target_width) = source.shape[:2], target.shape[:2]
    x1, x2 = max(left, 0), min(left + target_width, width)
    y1, y2 = max(top, 0), min(top + target_height, height)
    if x1 < x2 and y1 < y2:
        target[y1 - top : y2 - top, x1 - left : x2 - left] = source[y1:y2, x1:x2]


def join_objects(results: dict, samples: list[dict], parts: list[Objects | None]) -> None:
    """Give one sample the objects of several.

    Args:
        results: The sample to change; its image is in place already. It may be one of `samples`.
        samples: Where labels and ignore flags are taken from.
        parts: The objects of each sample, in the frame of the new image.

    Raises:
        ValueError: If only some of the samples have annotations, or masks.
    """
    if all(part is None for part in parts):
        return
    present = [part for part in parts if part is not None]
    with_masks = [part.masks for part in present if part.masks is not None]
    if len(present) < len(parts) or len(with_masks) not in (0, len(parts)):
        raise ValueError(
            'got samples with and without annotations (or masks) to mix; load all of them with the '
            'same settings of LoadAnnotations'
        )
    joined = {
        key: np.concatenate([sample[key] for sample in samples])
        for key in PER_OBJECT_KEYS
        if key in results
    }
    results.update(joined)
    boxes = np.concatenate([part.boxes for part in present])
    write_objects(results, Objects(boxes, np.concatenate(with_masks) if with_masks else None))
