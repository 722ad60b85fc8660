"""Mosaic and mixup, with masks.

Both get their other images from mmdet's MultiImageMixDataset, which asks `get_indexes` for them
and hands them over as `mix_results`. (The cached variants of mmdet are quicker to feed, but what
their caches hold is lost when a training resumes, and then it does not end with the same weights.)
Where the dice say no, no image is loaded.
"""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

from collections.abc import Sized

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmext.datasets.checks import checked_fraction, checked_range, checked_size
from mmext.datasets.transforms.affine import fit, scaling, translation, warp_objects
from mmext.datasets.transforms.objects import (
    Objects,
    copy_window,
    join_objects,
    read_objects,
    select_objects,
)
from mmext.registry import TRANSFORMS


def draw_partners(dataset: Sized, count: int, prob: float) -> list[int]:
    """Draw the indices of `count` other images, or none with probability 1 - prob."""
    if np.random.uniform() >= prob:
        return []
    return np.random.randint(0, len(dataset), count).tolist()


def take_partners(results: dict, name: str) -> list[dict]:
    """Take the other images of a sample.

    Raises:
        ValueError: If the data set does not provide them.
    """
    if 'mix_results' not in results:
        raise ValueError(
            f'got a sample without mix_results; {name} needs other images. Wrap the data set: '
            "dict(type='mmdet.MultiImageMixDataset', dataset=dict(..., pipeline=[loading]), "
            'pipeline=[...])'
        )
    return results['mix_results']


@TRANSFORMS.register_module()
class Mosaic(BaseTransform):
    """Put four images around a random point of a canvas twice the input size.

    Each image is resized to fit `scale` with its aspect ratio kept. Follow it by
    `mmext.RandomAffine` with `size=scale`, which crops the canvas to its middle and drops what is
    cut away.

    Args:
        scale: (w, h) of the network's input; the canvas has twice that.
        center_range: The point where the images meet, as a fraction of w and h.
        pad_val: Grey value of the canvas.
        prob: Probability of a mosaic; otherwise the sample stays as it is.
    """

    def __init__(
        self,
        scale: tuple[int, int],
        *,
        center_range: tuple[float, float] = (0.5, 1.5),
        pad_val: int = 114,
        prob: float = 1.0,
    ) -> None:
        self.scale = checked_size(scale, 'scale')
        self.center_range = checked_range(center_range, 'center_range')
        if center_range[1] >= 2:
            raise ValueError(
                f'got center_range={center_range}; expected below 2, the canvas ends there'
            )
        self.pad_val = pad_val
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def get_indexes(self, dataset: Sized) -> list[int]:
        """Draw three other images, or none."""
        return draw_partners(dataset, 3, self.prob)

    @cache_randomness
    def draw_center(self) -> tuple[int, int]:
        """Draw the point (x, y) of the canvas where the images meet."""
        x, y = np.random.uniform(*self.center_range, 2) * self.scale
        return int(x), int(y)

    def transform(self, results: dict) -> dict:
        """Make one mosaic."""
        partners = take_partners(results, 'Mosaic')
        if not partners:
            return results
        samples = [results, *partners]
        size = (2 * self.scale[0], 2 * self.scale[1])
        shape = (size[1], size[0], *results['img'].shape[2:])
        canvas = np.full(shape, self.pad_val, dtype=results['img'].dtype)
        center = self.draw_center()
        parts = [self._place(sample, i, canvas, center) for i, sample in enumerate(samples)]
        results['img'] = canvas
        results['img_shape'] = canvas.shape[:2]
        join_objects(results, samples, parts)
        # There is no longer one map from one original image.
        results.pop('homography_matrix', None)
        return results

    def _place(
        self, sample: dict, corner: int, canvas: np.ndarray, center: tuple[int, int]
    ) -> Objects | None:
        """Paste an image; corners 0 to 3 are top left, top right, bottom left, bottom right."""
        image, (factor_x, factor_y) = fit(sample['img'], self.scale)
        height, width = image.shape[:2]
        left = center[0] if corner % 2 else center[0] - width
        top = center[1] if corner // 2 else center[1] - height
        copy_window(image, -left, -top, canvas)
        objects = read_objects(sample)
        if objects is None:
            return None
        matrix = translation(left, top) @ scaling(factor_x, factor_y)
        placed, visible = warp_objects(objects, matrix, canvas.shape[1::-1])
        return select_objects(sample, placed, visible > 0)


@TRANSFORMS.register_module()
class MixUp(BaseTransform):
    """Blend the image with another one, which is letterboxed to its size; both keep their objects.

    Args:
        alpha: The weight of the image is drawn from Beta(alpha, alpha); 32 stays close to one half.
        pad_val: Grey value beside the other image.
        prob: Probability of blending.
    """

    def __init__(self, *, alpha: float = 32.0, pad_val: int = 114, prob: float = 1.0) -> None:
        if alpha <= 0:
            raise ValueError(f'got alpha={alpha}; expected a number above 0')
        self.alpha = alpha
        self.pad_val = pad_val
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def get_indexes(self, dataset: Sized) -> list[int]:
        """Draw one other image, or none."""
        return draw_partners(dataset, 1, self.prob)

    @cache_randomness
    def draw_weight(self) -> float:
        """Draw the weight of the sample's own image."""
        return float(np.random.beta(self.alpha, self.alpha))

    def transform(self, results: dict) -> dict:
        """Blend one sample."""
        partners = take_partners(results, 'MixUp')
        if not partners:
            return results
        own, other = results['img'], partners[0]
        size = own.shape[1::-1]
        inner, factors = fit(other['img'], size)
        left, top = (size[0] - inner.shape[1]) // 2, (size[1] - inner.shape[0]) // 2
        padded = np.full_like(own, self.pad_val)
        copy_window(inner, -left, -top, padded)
        weight = self.draw_weight()
        results['img'] = cv2.addWeighted(own, weight, padded, 1 - weight, 0)
        objects = read_objects(other)
        if objects is not None:
            objects, _ = warp_objects(objects, translation(left, top) @ scaling(*factors), size)
        join_objects(results, [results, other], [read_objects(results), objects])
        return results
