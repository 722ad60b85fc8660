"""The mosaic of DEIM: four whole images in a grid, then turned, moved and scaled."""

from collections.abc import Sequence, Sized
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmcv.transforms.utils import cache_randomness

from mmext.datasets.checks import checked_fraction
from mmext.datasets.transforms.affine import scaling, translation, warp_image, warp_objects
from mmext.datasets.transforms.geometry import RandomAffine
from mmext.datasets.transforms.mixing import draw_partners, take_partners
from mmext.datasets.transforms.objects import (
    Objects,
    copy_window,
    join_objects,
    read_objects,
    select_objects,
)
from mmext.registry import TRANSFORMS

MARK = 'is_mosaic'


class Part(NamedTuple):
    """One of the four images.

    Attributes:
        image: (h, w, 3) uint8, resized.
        factors: (x, y), by which it was resized.
    """

    image: np.ndarray
    factors: tuple[float, float]


@TRANSFORMS.register_module()
class GridMosaic(BaseTransform):
    """Four images in a grid of 2 x 2, warped by one random affine map (DEIM, arXiv:2412.04234, dense one-to-one).

    Each image is resized to `short_side` with its aspect ratio kept (bilinear, antialiased). A cell of the grid has
    the largest height and the largest width of the four, each image sits in the top left of its cell, the sample's
    own in the first one; the rest is black. The map keeps the size of the canvas; its pixels are the nearest ones.

    The sample gets the mark `is_mosaic`, which `mmext.UnlessMosaic` reads. The other images come from
    mmdet's MultiImageMixDataset, drawn from the whole data set (the original draws from a cache of the last 50 images
    of each worker, whose content a resumed run would not have).

    Args:
        short_side: Pixels; half the side of the network's input.
        max_rotate: Degrees.
        max_translate: Fraction of the canvas.
        scale_range: (low, high).
        prob: Probability of a mosaic; otherwise the sample stays as it is.
    """

    def __init__(
        self,
        short_side: int,
        *,
        max_rotate: float = 10.0,
        max_translate: float = 0.1,
        scale_range: tuple[float, float] = (0.5, 1.5),
        prob: float = 0.5,
    ) -> None:
        if short_side < 1:
            raise ValueError(f'got short_side={short_side}; expected pixels')
        self.short_side = short_side
        self.affine = RandomAffine(
            max_rotate=max_rotate, max_translate=max_translate, scale_range=scale_range
        )
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def get_indexes(self, dataset: Sized) -> list[int]:
        """Draw three other images, or none."""
        return draw_partners(dataset, 3, self.prob)

    def draw_matrix(self, size: tuple[int, int]) -> np.ndarray:
        """Draw the (3, 3) map of a canvas of size (w, h) onto itself."""
        return self.affine.draw_matrix(size, size)

    def transform(self, results: dict) -> dict:
        """Make one mosaic."""
        partners = take_partners(results, 'GridMosaic')
        if not partners:
            return results
        samples = [results, *partners]
        parts = [self._resize(sample['img']) for sample in samples]
        cell = np.max([part.image.shape[:2] for part in parts], axis=0)
        canvas = np.zeros((*(2 * cell), *parts[0].image.shape[2:]), dtype=np.uint8)
        matrix = self.draw_matrix(canvas.shape[1::-1])
        placed = []
        for index, (sample, part) in enumerate(zip(samples, parts, strict=True)):
            left, top = int(index % 2 * cell[1]), int(index // 2 * cell[0])
            copy_window(part.image, -left, -top, canvas)
            to_canvas = matrix @ translation(left, top) @ scaling(*part.factors)
            placed.append(_visible_objects(sample, to_canvas, canvas.shape[1::-1]))
        results['img'] = warp_image(
            canvas, matrix, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST
        )
        results['img_shape'] = canvas.shape[:2]
        join_objects(results, samples, placed)
        results[MARK] = True
        # There is no longer one map from one original image.
        results.pop('homography_matrix', None)
        return results

    def _resize(self, image: np.ndarray) -> Part:
        height, width = image.shape[:2]
        short = min(height, width)
        # The long side is rounded down, as torchvision does.
        size = (self.short_side * width // short, self.short_side * height // short)
        resized = mmcv.imresize(image, size, interpolation='bilinear', backend='pillow')
        return Part(resized, (size[0] / width, size[1] / height))


def _visible_objects(sample: dict, matrix: np.ndarray, size: tuple[int, int]) -> Objects | None:
    """The objects of a sample on the canvas; those outside are dropped, and their labels in the sample."""
    objects = read_objects(sample)
    if objects is None:
        return None
    placed, visible = warp_objects(objects, matrix, size)
    return select_objects(sample, placed, visible > 0)


@TRANSFORMS.register_module()
class UnlessMosaic(BaseTransform):
    """Runs its transforms on samples that `mmext.GridMosaic` has left alone.

    Args:
        transforms: Their configs, in order.
    """

    def __init__(self, transforms: Sequence[dict | BaseTransform]) -> None:
        self.transforms = Compose(list(transforms))

    def transform(self, results: dict) -> dict | None:
        """Run on one sample; None where one of the transforms drops it."""
        return results if results.get(MARK) else self.transforms(results)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(transforms={self.transforms.transforms})'
