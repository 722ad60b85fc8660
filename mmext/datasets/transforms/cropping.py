"""Crops around objects, with boxes and masks in step."""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmext.datasets.checks import checked_fraction, checked_range, checked_size
from mmext.datasets.transforms.affine import record_homography, translation
from mmext.datasets.transforms.objects import (
    Objects,
    box_areas,
    clip_boxes,
    copy_window,
    follow_masks,
    mask_areas,
    read_objects,
    select_objects,
    write_objects,
)
from mmext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class InstanceCrop(BaseTransform):
    """Cut a window around a randomly chosen object, so that small defects fill more of the input.

    With probability `prob` (and if there is an object) the window contains one object, chosen at
    random, at a random place inside the window; otherwise it lies anywhere. An object larger than
    the window fills it. Where the image is smaller than the window it is padded, the image at a
    random place.

    Args:
        size: (w, h) of the window in pixels.
        fraction: Instead of `size`: (low, high), drawn once per image; the window has this
            fraction of the image's sides.
        prob: Probability that the window goes to an object.
        pad_val: Grey value where the window leaves the image.
        min_side: An object is dropped if a side of its box is this short, in pixels;
        min_area_ratio: or if no more than this fraction of its area is left in the window
        min_cover: and what is left covers no more than this fraction of the window (most of a
            large stain may be cut away, yet the rest is no background).

    Raises:
        ValueError: If not exactly one of size and fraction is given, or one is out of range.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        fraction: tuple[float, float] | None = None,
        *,
        prob: float = 0.8,
        pad_val: int = 114,
        min_side: float = 2,
        min_area_ratio: float = 0.2,
        min_cover: float = 0.02,
    ) -> None:
        if (size is None) == (fraction is None):
            raise ValueError(
                f'got size={size}, fraction={fraction}; expected exactly one of the two'
            )
        self.size = None if size is None else checked_size(size, 'size')
        self.fraction = None if fraction is None else checked_range(fraction, 'fraction')
        self.prob = checked_fraction(prob, 'prob')
        self.pad_val = pad_val
        self.min_side = min_side
        self.min_area_ratio = min_area_ratio
        self.min_cover = min_cover

    @cache_randomness
    def draw_window(self, image_size: tuple[int, int], boxes: np.ndarray) -> list[int]:
        """Draw the window.

        Args:
            image_size: (w, h).
            boxes: (n, 4) xyxy.

        Returns:
            (left, top, width, height) in pixels; left or top is negative where padding is needed.
        """
        window = self._draw_size(image_size)
        at_object = np.random.uniform() < self.prob and len(boxes) > 0
        box = boxes[np.random.randint(len(boxes))] if at_object else None
        window_start = []
        for axis in range(2):
            slack = image_size[axis] - window[axis]
            low, high = min(slack, 0), max(slack, 0)
            if box is not None:
                ends = sorted((box[axis], box[axis + 2] - window[axis]))
                low, high = np.clip((np.ceil(ends[0]), np.floor(ends[1])), low, high).astype(int)
            window_start.append(int(np.random.randint(low, max(high, low) + 1)))
        return [*window_start, *window]

    def _draw_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        assert self.fraction is not None
        share = np.random.uniform(*self.fraction)
        return max(round(image_size[0] * share), 1), max(round(image_size[1] * share), 1)

    def transform(self, results: dict) -> dict:
        """Crop one sample."""
        image = results['img']
        objects = read_objects(results)
        boxes = np.zeros((0, 4), np.float32) if objects is None else objects.boxes
        left, top, *window = self.draw_window(image.shape[1::-1], boxes)
        cut = np.full((window[1], window[0], *image.shape[2:]), self.pad_val, dtype=image.dtype)
        copy_window(image, left, top, cut)
        results['img'] = cut
        results['img_shape'] = results['img'].shape[:2]
        if objects is not None:
            cropped, keep = self._crop_objects(objects, left, top, (window[0], window[1]))
            write_objects(results, select_objects(results, cropped, keep))
        record_homography(results, translation(-left, -top))
        return results

    def _crop_objects(
        self, objects: Objects, left: int, top: int, window: tuple[int, int]
    ) -> tuple[Objects, np.ndarray]:
        offset = np.array([left, top, left, top], dtype=np.float32)
        boxes = clip_boxes(objects.boxes - offset, window)
        if objects.masks is None:
            masks = None
            before, after = box_areas(objects.boxes), box_areas(boxes)
        else:
            masks = np.zeros((len(boxes), window[1], window[0]), dtype=np.uint8)
            for target, source in zip(masks, objects.masks, strict=True):
                copy_window(source, left, top, target)
            before, after = mask_areas(objects.masks), mask_areas(masks)
        cropped = follow_masks(Objects(boxes, masks))
        sides = cropped.boxes[:, 2:] - cropped.boxes[:, :2]
        enough = (after > self.min_area_ratio * before) | (
            after > self.min_cover * window[0] * window[1]
        )
        return cropped, enough & (sides.min(axis=1, initial=np.inf) > self.min_side)
