"""How photos become the input of a semantic network, by the conventions of three worlds: `hf`, `mmseg` and `nvlabs`.

Weights expect the convention that they were trained and scored with; mIoU under different ones is not comparable. All
three normalise RGB by ImageNet's mean and deviation and differ in the geometry:

- `hf`, transformers' `SegformerImageProcessor`: squashed to 512 x 512 whatever the shape, antialiased. Logits go to the
  photo's size in one step.
- `mmseg`: into 2048 x 512 with the shape kept, without antialiasing. Logits go to the network's size, then to the photo's.
- `nvlabs`: like `mmseg`, then both sides stretched to the next multiple of 32.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Of ImageNet, RGB in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SQUARE = 512
# Longer and shorter side into which photos are fitted.
SCALE = (2048, 512)
DIVISOR = 32

Resize = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Preset:
    """A convention of preprocessing.

    Attributes:
        name: what it is called.
        resize: (H, W, 3) uint8 to (h, w, 3) uint8.
        mean: of the RGB channels, in [0, 1].
        std: deviation of them.
        one_step: logits go straight to the photo's size; otherwise to the network's size first, as mmseg does.
    """

    name: str
    resize: Resize
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    one_step: bool = False

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network sees of a photo.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (3, h, w).
        """
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        normal = (self.resize(image).astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(normal.transpose(2, 0, 1))


def squash(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) to (512, 512, 3), every pixel a mean of all that it covers."""
    return np.asarray(Image.fromarray(image).resize((SQUARE, SQUARE), Image.Resampling.BILINEAR))


def fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) to the largest size of the same shape that has sides of at most 2048 and 512."""
    return _resized(image, fitting_size(*image.shape[:2]))


def fit_to_multiple(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As `fit`, and then stretched so that both sides are multiples of 32."""
    image = fit(image)
    height, width = (-(-side // DIVISOR) * DIVISOR for side in image.shape[:2])
    return _resized(image, (height, width))


def fitting_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest image of this shape within `SCALE`, at least one pixel."""
    factor = min(SCALE[0] / max(height, width), SCALE[1] / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset('hf', squash, one_step=True),
        Preset('mmseg', fit),
        Preset('nvlabs', fit_to_multiple),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ValueError: there is none.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(str(name).lower(), PRESETS, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise ValueError(f'preset: got {name!r}, expected one of {", ".join(PRESETS)}{hint}')


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8)
