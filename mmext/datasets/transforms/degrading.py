"""What cameras and files do to a picture: exposure, blur, compression. Boxes, masks and mattes stay."""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmext.datasets.checks import checked_fraction
from mmext.datasets.transforms.color import checked_bgr
from mmext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class BrightnessContrast(BaseTransform):
    """Multiply the distance of the values to the mean grey of the image, then add the same to all, by one table.

    Args:
        brightness: Largest sum, as a fraction of 255.
        contrast: The factor is drawn from [1 - contrast, 1 + contrast].
        prob: Probability.
    """

    def __init__(
        self, *, brightness: float = 0.2, contrast: float = 0.2, prob: float = 0.5
    ) -> None:
        self.brightness = checked_fraction(brightness, 'brightness')
        self.contrast = checked_fraction(contrast, 'contrast')
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def draw_change(self) -> tuple[float, float] | None:
        """Draw (sum in levels, factor), None to leave the image alone."""
        added = 255 * float(np.random.uniform(-self.brightness, self.brightness))
        factor = float(np.random.uniform(1 - self.contrast, 1 + self.contrast))
        return (added, factor) if np.random.rand() < self.prob else None

    def transform(self, results: dict) -> dict:
        """Change `img`, (h, w, 3) uint8 BGR."""
        change = self.draw_change()
        if change is not None:
            image = checked_bgr(results['img'])
            mean = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean()
            values = mean + change[1] * (np.arange(256) - mean) + change[0]
            results['img'] = cv2.LUT(image, values.round().clip(0, 255).astype(np.uint8))
        return results


@TRANSFORMS.register_module()
class RandomJPEG(BaseTransform):
    """Compress the image as JPEG: models that have only seen sharp files take its blocks for edges.

    Args:
        quality: (low, high), within 1..100.
        prob: Probability.
    """

    def __init__(self, quality: tuple[int, int] = (40, 95), prob: float = 0.3) -> None:
        if not 1 <= quality[0] <= quality[1] <= 100:
            raise ValueError(f'got quality={quality}; expected (low, high) within 1..100')
        self.quality = quality
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def draw_quality(self) -> int | None:
        """Draw the quality, None to leave the image alone."""
        quality = int(np.random.randint(self.quality[0], self.quality[1] + 1))
        return quality if np.random.rand() < self.prob else None

    def transform(self, results: dict) -> dict:
        """Change `img`, (h, w, 3) uint8 BGR."""
        quality = self.draw_quality()
        if quality is not None:
            image = checked_bgr(results['img'])
            data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            results['img'] = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return results


@TRANSFORMS.register_module()
class RandomBlur(BaseTransform):
    """Blur the image by a Gaussian; the matte stays, as it is the truth of the sharp scene.

    Args:
        sigma: (low, high) of the standard deviation in pixels.
        prob: Probability.
    """

    def __init__(self, sigma: tuple[float, float] = (0.3, 1.5), prob: float = 0.3) -> None:
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f'got sigma={sigma}; expected (low, high) with 0 < low <= high')
        self.sigma = sigma
        self.prob = checked_fraction(prob, 'prob')

    @cache_randomness
    def draw_sigma(self) -> float | None:
        """Draw the standard deviation, None to leave the image alone."""
        sigma = float(np.random.uniform(*self.sigma))
        return sigma if np.random.rand() < self.prob else None

    def transform(self, results: dict) -> dict:
        """Change `img`, (h, w, 3) uint8."""
        sigma = self.draw_sigma()
        if sigma is not None:
            results['img'] = cv2.GaussianBlur(results['img'], (0, 0), sigma)
        return results
