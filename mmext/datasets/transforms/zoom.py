"""Zoom-out: the image on a larger canvas, so that its objects become small."""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmext.datasets.checks import checked_fraction, checked_range
from mmext.datasets.transforms.affine import record_homography, translation
from mmext.datasets.transforms.objects import Objects, copy_window, read_objects, write_objects
from mmext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ZoomOut(BaseTransform):
    """Put the image at a random place of a canvas whose sides are a random factor longer (SSD, arXiv:1512.02325).

    mmdet's Expand does the same. It fills the canvas several times slower, which for a canvas of four times the side
    costs more than loading the photo, and it cannot take polygon masks.

    Args:
        side_range: The factor of the sides, both the same, is drawn from this range; at least 1.
        pad_val: Grey value of the canvas.
        prob: Probability of zooming out.
    """

    def __init__(
        self, *, side_range: tuple[float, float] = (1.0, 4.0), pad_val: int = 0, prob: float = 0.5
    ) -> None:
        self.side_range = checked_range(side_range, 'side_range')
        if side_range[0] < 1:
            raise ValueError(f'got side_range={side_range}; expected factors of at least 1')
        self.pad_val = pad_val
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def draw_canvas(self, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """Draw (left, top, canvas width, canvas height) for an image of size (w, h), or None for no zoom."""
        if np.random.uniform() >= self.prob:
            return None
        factor = np.random.uniform(*self.side_range)
        width, height = int(size[0] * factor), int(size[1] * factor)
        x, y = np.random.uniform(size=2)
        return int((width - size[0]) * x), int((height - size[1]) * y), width, height

    def transform(self, results: dict) -> dict:
        """Zoom one sample out."""
        image = results['img']
        canvas = self.draw_canvas(image.shape[1::-1])
        if canvas is None:
            return results
        left, top, width, height = canvas
        # Pages of zeros cost nothing until they are read.
        results['img'] = np.zeros((height, width, *image.shape[2:]), dtype=image.dtype)
        if self.pad_val:
            results['img'][:] = self.pad_val
        copy_window(image, -left, -top, results['img'])
        results['img_shape'] = (height, width)
        objects = read_objects(results)
        if objects is not None:
            offset = np.array([left, top, left, top], dtype=np.float32)
            masks = None
            if objects.masks is not None:
                masks = np.zeros((len(objects.masks), height, width), dtype=np.uint8)
                for target, source in zip(masks, objects.masks, strict=True):
                    copy_window(source, -left, -top, target)
            write_objects(results, Objects(objects.boxes + offset, masks))
        record_homography(results, translation(left, top))
        return results
