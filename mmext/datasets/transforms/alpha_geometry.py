"""Resize, flip, crop and turn an image with its soft matte.

Everything that is listed in `alpha_fields` moves with `img`: `gt_alpha`, (h, w) float32 in [0, 1], interpolated as the
image is, and `gt_valid`, (h, w) bool, by nearest neighbour. So does `foreground`, (h, w, 3) uint8, where there is one.
What comes into the picture from outside has alpha 0 and is not valid: nobody knows what was there.

`mmcv.RandomResize` and `RandomChoiceResize` take `resize_type='mmext.AlphaResize'`.
"""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

from collections.abc import Callable

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, Resize
from mmcv.transforms.utils import cache_randomness
from numpy.typing import NDArray

from mmext.datasets.checks import checked_fraction, checked_range, checked_size
from mmext.datasets.transforms.affine import scaling, translation, warp_image
from mmext.registry import TRANSFORMS

Step = Callable[[NDArray], NDArray]
COLOURED = ('img', 'foreground')
FLIPS = {'horizontal': 1, 'vertical': 0}


@TRANSFORMS.register_module()
class AlphaResize(Resize):
    """Resize image and matte: by area where they shrink, bilinear where they grow.

    Nearest neighbour, which mmseg takes for its label maps, would make hair ragged; bilinear without area would skip
    it. Adds `scale`, `scale_factor` (w, h: the exact ratios), `keep_ratio`; changes `img_shape`.

    Args:
        scale: (w, h) of the output, or the box that it fits into with `keep_ratio`.
        keep_ratio: Keep the aspect ratio: the largest size within `scale`, landscape or portrait (mmcv compares long
            with long and short with short side).
    """

    def __init__(self, scale: int | tuple[int, int], keep_ratio: bool = True) -> None:
        super().__init__(scale=scale, keep_ratio=keep_ratio)

    def transform(self, results: dict) -> dict:
        """See the class."""
        results['scale'] = checked_size(self.scale, 'scale')
        height, width = results['img'].shape[:2]
        size = _fitting((width, height), results['scale']) if self.keep_ratio else results['scale']
        results['scale_factor'] = (size[0] / width, size[1] / height)
        results['keep_ratio'] = self.keep_ratio
        move_planes(results, lambda plane: resized(plane, size))
        return results


@TRANSFORMS.register_module()
class AlphaFlip(BaseTransform):
    """Mirror image and matte.

    Sets `flip` and `flip_direction` (None where nothing was mirrored), the metainfo of mmseg.

    Args:
        prob: Probability.
        direction: 'horizontal' or 'vertical'.
    """

    def __init__(self, prob: float = 0.5, direction: str = 'horizontal') -> None:
        if direction not in FLIPS:
            raise ValueError(f'got direction={direction!r}; expected one of {list(FLIPS)}')
        self.prob = checked_fraction(prob, 'prob')
        self.direction = direction

    @cache_randomness
    def draw_flip(self) -> bool:
        """Draw whether to mirror."""
        return bool(np.random.rand() < self.prob)

    def transform(self, results: dict) -> dict:
        """See the class."""
        flip = self.draw_flip()
        results['flip'] = flip
        results['flip_direction'] = self.direction if flip else None
        if flip:
            code = FLIPS[self.direction]
            move_planes(results, lambda plane: _as_bytes(plane, lambda p: cv2.flip(p, code)))
        return results


@TRANSFORMS.register_module()
class AlphaRotate90(BaseTransform):
    """Turn image and matte by 90, 180 or 270 degrees, each as likely.

    Args:
        prob: Probability that they are turned at all.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def draw_turns(self) -> int:
        """Draw the number of quarter turns, counter-clockwise."""
        return int(np.random.randint(1, 4)) if np.random.rand() < self.prob else 0

    def transform(self, results: dict) -> dict:
        """See the class."""
        turns = self.draw_turns()
        if turns:
            move_planes(results, lambda plane: np.ascontiguousarray(np.rot90(plane, turns)))
        return results


@TRANSFORMS.register_module()
class AlphaCrop(BaseTransform):
    """Cut a random window out of image and matte; sides that are shorter than the window stay whole.

    Args:
        size: (w, h) of the window.
        min_foreground: Smallest share of all foreground (sum of alpha) that the window must hold. Windows are drawn
            up to `max_tries` times; after that the one with the most foreground is taken.
        max_tries: See above.
    """

    def __init__(
        self, size: tuple[int, int], *, min_foreground: float = 0.0, max_tries: int = 10
    ) -> None:
        if max_tries < 1:
            raise ValueError(f'got max_tries={max_tries}; expected 1 or more')
        self.size = checked_size(size, 'size')
        self.min_foreground = checked_fraction(min_foreground, 'min_foreground')
        self.max_tries = max_tries

    @cache_randomness
    def draw_corners(self, free: tuple[int, int]) -> NDArray[np.int64]:
        """Draw (max_tries, 2) corners (x, y) of windows, of which `free` (x, y) pixels are to choose from."""
        return np.random.randint(0, np.array(free) + 1, (self.max_tries, 2))

    def transform(self, results: dict) -> dict:
        """See the class."""
        height, width = results['img'].shape[:2]
        w, h = min(self.size[0], width), min(self.size[1], height)
        if (w, h) == (width, height):
            return results
        corners = self.draw_corners((width - w, height - h))
        left, top = corners[self._best(corners, (w, h), results.get('gt_alpha'))].tolist()
        window = slice(top, top + h), slice(left, left + w)
        move_planes(results, lambda plane: np.ascontiguousarray(plane[window]))
        return results

    def _best(
        self, corners: NDArray[np.int64], size: tuple[int, int], alpha: NDArray | None
    ) -> int:
        """The first window that holds enough foreground, or the one that holds most."""
        if alpha is None or not self.min_foreground:
            return 0
        # Sums of all windows in one pass over the image: (h + 1, w + 1) float64.
        table = cv2.integral(alpha)
        (x, y), (w, h) = corners.T, size
        held = table[y + h, x + w] - table[y, x + w] - table[y + h, x] + table[y, x]
        return int(np.argmax(np.minimum(held, self.min_foreground * table[-1, -1])))


@TRANSFORMS.register_module()
class AlphaShiftScaleRotate(BaseTransform):
    """Move, scale and turn image and matte about the centre; the size stays.

    The border is grey with alpha 0, and not valid. (A mirrored border would show people with two heads, whose second
    one is missing or there in the matte by chance.)

    Args:
        shift: Largest move, as a share of width and height.
        scale_range: (low, high) of the scale, drawn so that its logarithm is uniform.
        rotate: Largest turn in degrees.
        prob: Probability.
        pad_val: Grey value of the border.
    """

    def __init__(
        self,
        *,
        shift: float = 0.0625,
        scale_range: tuple[float, float] = (0.8, 1.25),
        rotate: float = 15.0,
        prob: float = 0.5,
        pad_val: int = 114,
    ) -> None:
        self.shift = checked_fraction(shift, 'shift')
        self.scale_range = checked_range(scale_range, 'scale_range')
        self.rotate = rotate
        self.prob = checked_fraction(prob, 'prob')
        self.pad_val = pad_val

    @cache_randomness
    def draw_matrix(self, size: tuple[int, int]) -> NDArray[np.float64] | None:
        """Draw the (3, 3) matrix from input to output for an image of size (w, h); None to leave it alone."""
        if np.random.rand() >= self.prob:
            return None
        angle = np.deg2rad(np.random.uniform(-self.rotate, self.rotate))
        ratio = np.exp(np.random.uniform(*np.log(self.scale_range)))
        move = np.random.uniform(-self.shift, self.shift, 2) * size
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        centre = np.array(size) / 2
        placed = translation(*(centre + move)) @ rotation @ scaling(ratio, ratio)
        return placed @ translation(*-centre)

    def transform(self, results: dict) -> dict:
        """See the class."""
        height, width = results['img'].shape[:2]
        matrix = self.draw_matrix((width, height))
        if matrix is None:
            return results
        if 'gt_alpha' in results and 'gt_valid' not in results:
            results['gt_valid'] = np.ones((height, width), bool)
            results['alpha_fields'] = [*results['alpha_fields'], 'gt_valid']
        size = width, height

        def warp(plane: NDArray) -> NDArray:
            if plane.dtype == bool:
                # A pixel is valid if all that it was made of is.
                return warp_image(plane.astype(np.uint8) * 255, matrix, size) == 255
            return warp_image(plane, matrix, size, self.pad_val if plane.ndim == 3 else 0)

        move_planes(results, warp)
        return results


def move_planes(results: dict, step: Step) -> None:
    """Change the image and everything that lies on it, and `img_shape`.

    Args:
        results: The sample; changed in place.
        step: Takes (h, w, 3) uint8, (h, w) float32 or (h, w) bool and gives the same type, of one size for all.

    Raises:
        ValueError: Image and matte differ in size, as after `LoadAlpha` behind a resizing.
    """
    for name in plane_names(results):
        moved = step(results[name])
        # Weights of an interpolation add up to 1 but for rounding.
        results[name] = np.clip(moved, 0, 1) if moved.dtype == np.float32 else moved
    results['img_shape'] = results['img'].shape[:2]


def plane_names(results: dict) -> list[str]:
    """The keys of the image and of everything that lies on it; ValueError where sizes differ."""
    names = [*(name for name in COLOURED if name in results), *results.get('alpha_fields', [])]
    shape = results['img'].shape[:2]
    for name in names:
        if results[name].shape[:2] != shape:
            raise ValueError(
                f'{results.get("img_path")}: got {name} of {results[name].shape[:2]} and an image of {shape} (h, w). In '
                'training LoadAlpha comes right after LoadImage, and only transforms that know the matte follow.'
            )
    return names


def resized(plane: NDArray, size: tuple[int, int]) -> NDArray:
    """Resize (h, w) or (h, w, c) to (w, h): bool by nearest, else by area or bilinear.

    Area if neither side grows: OpenCV's area filter for growing is nearest neighbour.
    """
    height, width = plane.shape[:2]
    if (width, height) == size:
        return plane
    if plane.dtype == bool:
        return _as_bytes(plane, lambda p: cv2.resize(p, size, interpolation=cv2.INTER_NEAREST))
    shrinks = size[0] <= width and size[1] <= height
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _as_bytes(plane: NDArray, step: Step) -> NDArray:
    """Run a step of OpenCV, which knows no bool."""
    if plane.dtype != bool:
        return step(plane)
    return step(plane.view(np.uint8)).view(bool)


def _fitting(size: tuple[int, int], scale: tuple[int, int]) -> tuple[int, int]:
    """The size (w, h) with the same ratio, in whole pixels, that fits `scale` as mmcv's `Resize` understands it."""
    ratio = min(max(scale) / max(size), min(scale) / min(size))
    return max(int(size[0] * ratio + 0.5), 1), max(int(size[1] * ratio + 0.5), 1)
