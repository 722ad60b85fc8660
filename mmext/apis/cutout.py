"""A cut-out: the foreground of a photo, and what can be made of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmext.apis.compositing import (
    BLUR,
    alpha_picture,
    blur_backdrop,
    color_backdrop,
    composite,
    image_backdrop,
    straight_rgba,
)
from mmext.apis.guided import check_image

# A colour, an image, or 'blur' for the photo's own background out of focus.
Background: TypeAlias = tuple[int, int, int] | NDArray[np.uint8] | str


class PartSeconds(NamedTuple):
    """Time of the parts of one cut-out; of a batch, its share.

    Attributes:
        decode: reading the file.
        pre: resizing for the network.
        net: the network, with the tensors in and out.
        upsample: from the network's size to the photo's.
        foreground: estimate of its colours.
        encode: making the products and writing them.
    """

    decode: float = 0.0
    pre: float = 0.0
    net: float = 0.0
    upsample: float = 0.0
    foreground: float = 0.0
    encode: float = 0.0


@dataclass
class Cutout:
    """A photo and its foreground.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, the photo, upright.
        alpha: (H, W) float32 in [0, 1].
        foreground: (H, W, 3) uint8 RGB, its colours alone.
        profile: ICC profile of the colours; None for sRGB.
        path: the file; None for arrays.
        seconds: time of the parts so far.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.float32]
    foreground: NDArray[np.uint8]
    profile: bytes | None = None
    path: Path | None = None
    seconds: PartSeconds = field(default_factory=PartSeconds)

    def alpha_picture(self, bits: int = 8) -> NDArray[np.uint8 | np.uint16]:
        """(H, W) grey of 8 or 16 bits."""
        return alpha_picture(self.alpha, bits)

    def rgba(self) -> NDArray[np.uint8]:
        """(H, W, 4), straight: colours are not multiplied by alpha."""
        return straight_rgba(self.foreground, self.alpha)

    def over(
        self, background: Background, *, blur: float = BLUR, linear_light: bool = False
    ) -> NDArray[np.uint8]:
        """The foreground before another background.

        Args:
            background: a colour (red, green, blue) in 0..255; (h, w, 3) uint8 RGB, which covers the whole; or 'blur'.
            blur: of 'blur': standard deviation as a share of the longer side.
            linear_light: see `compositing.composite`.

        Returns:
            (H, W, 3) RGB.

        Raises:
            ValueError: a background of another kind.
        """
        height, width = self.alpha.shape
        if isinstance(background, np.ndarray):
            check_image(background)
            backdrop = image_backdrop(background, (height, width))
        elif isinstance(background, tuple) and len(background) == 3:
            if not all(0 <= value <= 255 for value in background):
                raise ValueError(f'background: got the colour {background}, expected 0..255')
            backdrop = color_backdrop(background, width)
        elif isinstance(background, str) and background == 'blur':
            backdrop = blur_backdrop(self.pixels, self.alpha, blur)
        else:
            raise ValueError(
                f"background: got {background!r}, expected a colour (r, g, b), an RGB image or 'blur'"
            )
        return composite(self.foreground, self.alpha, backdrop, linear_light=linear_light)
