"""Brightness, contrast, saturation, hue and order of the channels, as photo editors change them."""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

from collections.abc import Callable

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmext.datasets.checks import checked_fraction
from mmext.datasets.transforms.color import checked_bgr
from mmext.registry import TRANSFORMS

Step = tuple[str, float | list[int]]


@TRANSFORMS.register_module()
class PhotometricDistortion(BaseTransform):
    """Change the colours by up to five steps, each of which runs with probability `prob`.

    In this order: brightness, contrast, saturation, hue, channels; contrast moves behind hue in every second
    image. Each step rounds to 8 bits. Ranges, order and formulas are those of torchvision's
    RandomPhotometricDistort (after SSD, arXiv:1512.02325); mmdet's PhotoMetricDistortion adds to the
    brightness instead of multiplying, scales about black instead of the mean grey, has a fixed probability of one
    half a step, and hands floats on that leave 0..255.

    Args:
        brightness: The values are multiplied by a factor from [1 - brightness, 1 + brightness].
        contrast: So is the distance of the values to the mean grey of the image,
        saturation: and to the grey of the pixel.
        hue: Largest turn, as a fraction of the colour circle.
        prob: Probability of each step. The channels are permuted at random.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.125,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.05,
        prob: float = 0.5,
    ) -> None:
        self.limits = {
            'brightness': checked_fraction(brightness, 'brightness'),
            'contrast': checked_fraction(contrast, 'contrast'),
            'saturation': checked_fraction(saturation, 'saturation'),
        }
        self.hue = checked_fraction(hue, 'hue')
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def draw_steps(self) -> list[Step]:
        """Draw the steps in their order: (name, factor), ('hue', turn) or ('channels', permutation)."""
        steps: list[Step] = [
            (name, np.random.uniform(1 - limit, 1 + limit)) for name, limit in self.limits.items()
        ]
        steps.append(('hue', np.random.uniform(-self.hue, self.hue)))
        if np.random.uniform() < 0.5:
            steps.append(steps.pop(1))
        steps.append(('channels', np.random.permutation(3).tolist()))
        runs = np.random.uniform(size=len(steps)) < self.prob
        return [step for step, run in zip(steps, runs, strict=True) if run]

    def transform(self, results: dict) -> dict:
        """Change `img`, (h, w, 3) uint8 BGR."""
        image = checked_bgr(results['img'])
        for name, amount in self.draw_steps():
            image = CHANGES[name](image, amount)
        results['img'] = image
        return results


def scale_about(image: np.ndarray, level: float, factor: float) -> np.ndarray:
    """Multiply the distance of all values to one grey level."""
    values = level + factor * (np.arange(256) - level)
    return cv2.LUT(image, np.clip(np.round(values), 0, 255).astype(np.uint8))


def change_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the distance of the values to the mean grey."""
    grey = float(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean())
    return scale_about(image, round(grey), factor)


def change_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the distance of each pixel to its own grey."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue by a fraction of the circle, in 256 steps."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    # uint8 wraps around, as the circle does.
    hsv[..., 0] = np.add(hsv[..., 0], round(turn * 256) % 256, dtype=np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


CHANGES: dict[str, Callable] = {
    'brightness': lambda image, factor: scale_about(image, 0, factor),
    'contrast': change_contrast,
    'saturation': change_saturation,
    'hue': turn_hue,
    'channels': lambda image, order: np.ascontiguousarray(image[..., order]),
}
