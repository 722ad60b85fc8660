"""The crop of SSD: a random window that shows at least one object well enough."""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from numpy.typing import NDArray

from mmext.datasets.checks import checked_fraction, checked_range
from mmext.datasets.transforms.affine import record_homography, translation
from mmext.datasets.transforms.objects import (
    Objects,
    box_areas,
    clip_boxes,
    follow_masks,
    read_objects,
    select_objects,
    write_objects,
)
from mmext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class IoUCrop(BaseTransform):
    """Cut out a random window; the objects whose centres lie inside stay (SSD, arXiv:1512.02325, section 2.2).

    A least overlap is drawn from `min_ious`. Then windows are drawn until one fits: its sides are a share of the
    image's from `scale_range`, its width over height lies in `aspect_range`, and of the objects with
    their centre inside at least one has that IoU with the window. After `num_trials` windows without success another
    least overlap is drawn; one of 1 or more keeps the whole image. An image without objects stays whole.

    mmdet's MinIoURandomCrop asks every object for the overlap, those outside the window too, and so crops images
    with many objects hardly ever. Defaults and rule here are those of torchvision's RandomIoUCrop.

    Boxes are clipped to the window, and tightened to their masks where there are masks.

    Args:
        min_ious: Least overlaps to draw from; one must be 1 or more.
        scale_range: Share of the width, and of the height, each drawn for itself.
        aspect_range: Allowed width over height of the window in pixels.
        num_trials: Windows per least overlap.
        prob: Probability that a crop is tried at all.
    """

    def __init__(
        self,
        *,
        min_ious: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        scale_range: tuple[float, float] = (0.3, 1.0),
        aspect_range: tuple[float, float] = (0.5, 2.0),
        num_trials: int = 40,
        prob: float = 0.8,
    ) -> None:
        if not min_ious or max(min_ious) < 1 or min(min_ious) < 0:
            raise ValueError(
                f'got min_ious={min_ious}; expected numbers from 0, one of them 1 or more: it keeps the whole image, '
                'and without it the search for a window might never end'
            )
        if num_trials < 1:
            raise ValueError(f'got num_trials={num_trials}; expected at least 1')
        self.min_ious = tuple(min_ious)
        self.scale_range = checked_range(scale_range, 'scale_range')
        if scale_range[1] > 1:
            raise ValueError(f'got scale_range={scale_range}; a window has at most the whole side')
        self.aspect_range = checked_range(aspect_range, 'aspect_range')
        self.num_trials = num_trials
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def draw_window(self, size: tuple[int, int], boxes: NDArray) -> NDArray | None:
        """Draw a window for an image of size (w, h) with boxes (n, 4) xyxy.

        Returns:
            (4,) int xyxy, or None where the image stays whole.
        """
        if not len(boxes) or np.random.uniform() >= self.prob:
            return None
        while True:
            min_iou = np.random.choice(self.min_ious)
            if min_iou >= 1:
                return None
            windows = self._draw_trials(size)
            overlaps = np.where(centres_inside(windows, boxes), window_ious(windows, boxes), -1)
            fitting = np.flatnonzero(overlaps.max(axis=1) >= min_iou)
            if len(fitting):
                return windows[fitting[0]]

    def _draw_trials(self, size: tuple[int, int]) -> NDArray:
        """Windows (t, 4) xyxy in whole pixels, without those that are too elongated or empty."""
        shares = np.random.uniform(*self.scale_range, (self.num_trials, 2))
        sides = (shares * size).astype(int)
        starts = ((size - sides) * np.random.uniform(size=(self.num_trials, 2))).astype(int)
        width, height = sides.T
        low, high = self.aspect_range
        fits = (width > 0) & (height > 0) & (low * height <= width) & (width <= high * height)
        return np.concatenate([starts, starts + sides], axis=1)[fits]

    def transform(self, results: dict) -> dict:
        """Crop one sample."""
        objects = read_objects(results)
        if objects is None:
            return results
        window = self.draw_window(results['img'].shape[1::-1], objects.boxes)
        if window is None:
            return results
        x1, y1, x2, y2 = window.tolist()
        results['img'] = np.ascontiguousarray(results['img'][y1:y2, x1:x2])
        results['img_shape'] = (y2 - y1, x2 - x1)
        keep = centres_inside(window[None], objects.boxes)[0]
        kept = select_objects(results, objects, keep)
        offset = np.array([x1, y1, x1, y1], dtype=np.float32)
        boxes = clip_boxes(kept.boxes - offset, (x2 - x1, y2 - y1))
        masks = None if kept.masks is None else np.ascontiguousarray(kept.masks[:, y1:y2, x1:x2])
        write_objects(results, follow_masks(Objects(boxes, masks)))
        record_homography(results, translation(-x1, -y1))
        return results


def centres_inside(windows: NDArray, boxes: NDArray) -> NDArray:
    """Say which box centres lie within which windows.

    Args:
        windows: (t, 4) xyxy.
        boxes: (n, 4) xyxy.

    Returns:
        (t, n) bool.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    windows = windows[:, None]
    return ((windows[..., :2] < centres) & (centres < windows[..., 2:])).all(axis=-1)


def window_ious(windows: NDArray, boxes: NDArray) -> NDArray:
    """IoU (t, n) of windows (t, 4) with boxes (n, 4), xyxy; 0 where both are empty."""
    starts = np.maximum(windows[:, None, :2], boxes[:, :2])
    ends = np.minimum(windows[:, None, 2:], boxes[:, 2:])
    shared = np.prod(np.maximum(ends - starts, 0), axis=-1)
    united = box_areas(windows)[:, None] + box_areas(boxes) - shared
    return shared / np.maximum(united, 1e-6)
