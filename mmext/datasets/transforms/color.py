"""Colour and tone changes that leave boxes and masks alone."""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmext.datasets.checks import checked_fraction
from mmext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class HSV(BaseTransform):
    """Turn the hue, multiply saturation and value, each by a random amount, through 8-bit tables.

    mmdet's YOLOXHSVRandomAug adds instead of multiplying, which also tints grey photos; a
    multiplied saturation leaves grey pixels grey.

    Args:
        hue: Largest turn, as a fraction of the colour circle.
        saturation: Gain drawn from [1 - saturation, 1 + saturation].
        value: Gain drawn from [1 - value, 1 + value].
    """

    def __init__(self, *, hue: float = 0.015, saturation: float = 0.7, value: float = 0.4) -> None:
        self.hue = checked_fraction(hue, 'hue')
        self.saturation = checked_fraction(saturation, 'saturation')
        self.value = checked_fraction(value, 'value')

    @cache_randomness
    def draw_gains(self) -> np.ndarray:
        """Draw (hue turn in [-1, 1], saturation gain, value gain)."""
        limits = (self.hue, self.saturation, self.value)
        return np.random.uniform(-1, 1, 3) * limits + (0, 1, 1)

    def transform(self, results: dict) -> dict:
        """Change `img`, (h, w, 3) uint8 BGR."""
        image = checked_bgr(results['img'])
        turn, saturation, value = self.draw_gains()
        levels = np.arange(256)
        # OpenCV's 8-bit hue counts the circle in 180 steps.
        hue_table = ((levels + round(turn * 180)) % 180).astype(np.uint8)
        saturation_table = np.clip(levels * saturation, 0, 255).astype(np.uint8)
        value_table = np.clip(levels * value, 0, 255).astype(np.uint8)
        table = np.stack([hue_table, saturation_table, value_table], axis=-1)[:, None]
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table)
        results['img'] = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return results


def checked_bgr(image: np.ndarray) -> np.ndarray:
    """Return image, or raise ValueError if it is no (h, w, 3) uint8."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f'got an image of shape {image.shape} and type {image.dtype}; expected (h, w, 3) '
            "uint8. Load with color_type='color', and change colours before converting to float"
        )
    return image
