"""Crops of maps of classes that favour rare classes."""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from numpy.typing import NDArray

from mmext.datasets.checks import checked_fraction, checked_size
from mmext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LabelCrop(BaseTransform):
    """Cut a window that shows a pixel of a class chosen at random among those of the picture.

    mmseg's RandomCrop draws windows until no class fills more than `cat_max_ratio` of it, which windows of a surface with
    a scratch always do. Here each class of a picture is as likely, however few pixels it has, and each of its pixels.

    Where the picture is smaller than the window it stays as it is; the preprocessor pads.

    Required and changed keys: `img` (h, w, 3), `img_shape`, and the maps (h, w) of `seg_fields`.

    Args:
        size: (w, h) of the window in pixels.
        prob: probability that the window goes to a class; otherwise it lies anywhere.
        skipped: labels that no window goes to: the background, pixels without truth.

    Raises:
        ValueError: an argument is out of range; later, a picture and its map of different sizes.
    """

    def __init__(
        self, size: tuple[int, int], *, prob: float = 0.8, skipped: Sequence[int] = (0, 255)
    ) -> None:
        self.size = checked_size(size, 'size')
        self.prob = checked_fraction(prob, 'prob')
        self.skipped = list(skipped)

    @cache_randomness
    def draw_start(self, labels: NDArray[np.uint8]) -> tuple[int, int]:
        """Draw (left, top) of the window in a map (h, w)."""
        slack = [
            max(side - own, 0) for side, own in zip(labels.shape[::-1], self.size, strict=True)
        ]
        low, high = [0, 0], slack
        classes = np.setdiff1d(np.flatnonzero(np.bincount(labels.ravel())), self.skipped)
        if len(classes) and np.random.uniform() < self.prob:
            rows, columns = np.nonzero(labels == np.random.choice(classes))
            chosen = np.random.randint(len(rows))
            pixel = (int(columns[chosen]), int(rows[chosen]))
            low = [
                min(max(p - own + 1, 0), s)
                for p, own, s in zip(pixel, self.size, slack, strict=True)
            ]
            high = [min(p, s) for p, s in zip(pixel, slack, strict=True)]
        left, top = (int(np.random.randint(a, b + 1)) for a, b in zip(low, high, strict=True))
        return left, top

    def transform(self, results: dict) -> dict:
        """Crop one sample."""
        labels = results['gt_seg_map']
        if results['img'].shape[:2] != labels.shape:
            raise ValueError(
                f'LabelCrop: {results.get("img_path")} has {results["img"].shape[:2]} pixels (h, w), its map of classes '
                f'{labels.shape}; expected the same size. Use the map that was drawn on this picture'
            )
        left, top = self.draw_start(labels)
        width, height = self.size
        window = (slice(top, top + height), slice(left, left + width))
        results['img'] = np.ascontiguousarray(results['img'][window])
        results['img_shape'] = results['img'].shape[:2]
        for field in results['seg_fields']:
            results[field] = np.ascontiguousarray(results[field][window])
        return results
