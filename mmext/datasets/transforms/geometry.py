"""Letterbox and random affine, with boxes and masks in step.

mmdet has no letterbox that says where it padded, and its RandomAffine raises where there are masks.
"""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmext.datasets.checks import checked_range, checked_size
from mmext.datasets.transforms.affine import (
    fit,
    record_homography,
    scaling,
    translation,
    warp_image,
    warp_objects,
)
from mmext.datasets.transforms.objects import DropRule, read_objects, select_objects, write_objects
from mmext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LetterBox(BaseTransform):
    """Resize with the aspect ratio kept, then pad to an exact size.

    Sets `img`, `img_shape`, `scale_factor` (w, h: the exact ratios after rounding to whole
    pixels), `pad_param` (top, bottom, left, right), `keep_ratio`, `homography_matrix`; moves
    `gt_bboxes` and `gt_masks`. Back to the original image: x = (x_input - left) / scale_factor[0].
    No object is dropped.

    Args:
        scale: (w, h) of the output.
        pad_val: Grey value of the padding.
        center: Whether the image sits in the middle; otherwise at the top left.
        allow_scale_up: Whether smaller images are enlarged; otherwise they are only padded.
    """

    def __init__(
        self,
        scale: tuple[int, int],
        *,
        pad_val: int = 114,
        center: bool = True,
        allow_scale_up: bool = True,
    ) -> None:
        self.scale = checked_size(scale, 'scale')
        self.pad_val = pad_val
        self.center = center
        self.allow_scale_up = allow_scale_up

    def transform(self, results: dict) -> dict:
        """Letterbox one sample."""
        max_ratio = np.inf if self.allow_scale_up else 1.0
        if 'pad_param' in results:
            raise ValueError(
                'LetterBox: got a sample that is padded already; use one LetterBox per pipeline'
            )
        image, factor = fit(results['img'], self.scale, max_ratio)
        inner = image.shape[1::-1]
        pad_x, pad_y = self.scale[0] - inner[0], self.scale[1] - inner[1]
        left, top = (pad_x // 2, pad_y // 2) if self.center else (0, 0)
        matrix = translation(left, top) @ scaling(*factor)
        results['img'] = cv2.copyMakeBorder(
            image,
            top,
            pad_y - top,
            left,
            pad_x - left,
            cv2.BORDER_CONSTANT,
            value=(self.pad_val,) * 4,
        )
        objects = read_objects(results)
        if objects is not None:
            write_objects(results, warp_objects(objects, matrix, self.scale)[0])
        results['img_shape'] = results['img'].shape[:2]
        # After another resizing the factors multiply; a second padding could not be told apart from the first.
        before = results.get('scale_factor', (1.0, 1.0))
        results['scale_factor'] = (factor[0] * before[0], factor[1] * before[1])
        results['pad_param'] = (top, pad_y - top, left, pad_x - left)
        results['keep_ratio'] = True
        record_homography(results, matrix)
        return results


@TRANSFORMS.register_module()
class RandomAffine(BaseTransform):
    """Rotate, shear, scale and move the image about its centre, boxes and masks with it.

    Boxes are recomputed from the warped masks where there are masks, otherwise from their four
    corners. The defaults of the drop rule are those of the YOLO trainers; for hair-thin defects
    lower `min_side` and raise `max_aspect`, or they vanish from the training.

    Args:
        max_rotate: Degrees, drawn from [-max_rotate, max_rotate].
        max_translate: Fraction of the output's width and height.
        scale_range: (low, high) of the scale.
        max_shear: Degrees, drawn for x and y.
        size: (w, h) of the output; None keeps the input's. The input's centre goes to the
            output's, so that a mosaic of twice the size is cropped to its middle.
        pad_val: Grey value outside the image.
        min_side: An object is dropped if a side of its box is this short, in pixels;
        max_aspect: or if its box is this elongated;
        min_mask_ratio: or if no more than this fraction of its mask is left;
        min_box_ratio: or, without masks, of its box.
    """

    def __init__(
        self,
        *,
        max_rotate: float = 0.0,
        max_translate: float = 0.1,
        scale_range: tuple[float, float] = (0.5, 1.5),
        max_shear: float = 0.0,
        size: tuple[int, int] | None = None,
        pad_val: int = 114,
        min_side: float = 2,
        max_aspect: float = 100,
        min_mask_ratio: float = 0.01,
        min_box_ratio: float = 0.1,
    ) -> None:
        if abs(max_shear) >= 45:
            # Two shears of 45 degrees flatten the image onto a line.
            raise ValueError(f'got max_shear={max_shear}; expected degrees below 45')
        self.max_rotate = max_rotate
        self.max_translate = max_translate
        self.scale_range = checked_range(scale_range, 'scale_range')
        self.max_shear = max_shear
        self.size = None if size is None else checked_size(size, 'size')
        self.pad_val = pad_val
        self.drop_rule = DropRule(min_side, max_aspect, min_mask_ratio, min_box_ratio)

    @cache_randomness
    def draw_matrix(self, input_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Draw the (3, 3) matrix from an image of input_size (w, h) to one of size (W, H)."""
        angle = np.deg2rad(np.random.uniform(-self.max_rotate, self.max_rotate))
        ratio = np.random.uniform(*self.scale_range)
        shear_x, shear_y = np.tan(np.deg2rad(np.random.uniform(-self.max_shear, self.max_shear, 2)))
        move = 0.5 + np.random.uniform(-self.max_translate, self.max_translate, 2)
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        shear = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
        to_centre = translation(-input_size[0] / 2, -input_size[1] / 2)
        placed = translation(move[0] * size[0], move[1] * size[1])
        return placed @ shear @ rotation @ scaling(ratio, ratio) @ to_centre

    def transform(self, results: dict) -> dict:
        """Warp one sample."""
        height, width = results['img'].shape[:2]
        size = self.size or (width, height)
        matrix = self.draw_matrix((width, height), size)
        results['img'] = warp_image(results['img'], matrix, size, self.pad_val)
        results['img_shape'] = results['img'].shape[:2]
        objects = read_objects(results)
        if objects is not None:
            warped, visible = warp_objects(objects, matrix, size)
            keep = self.drop_rule.keeps(warped, visible)
            write_objects(results, select_objects(results, warped, keep))
        record_homography(results, matrix)
        return results
