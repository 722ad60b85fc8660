"""What a cut-out becomes: an alpha picture, straight RGBA, or a picture before another background.

Everything is made in pieces of some rows, so that beside the results there is little in memory.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from mmext.apis.rows import RowUpsampler, row_chunks

# Of the blurred background: its standard deviation is this share of the image's longer side.
BLUR = 0.02
# The blurred background is computed this small; nothing finer is left in it.
BLURRED_SIDE = 512

# (top, bottom) -> these rows of a background, (bottom - top, W, 3) RGB in [0, 255] of any number type.
Backdrop = Callable[[int, int], NDArray]


def alpha_picture(alpha: NDArray[np.float32], bits: int = 8) -> NDArray[np.uint8 | np.uint16]:
    """The alpha as grey values.

    Args:
        alpha: (H, W) in [0, 1].
        bits: 8 or 16.

    Returns:
        (H, W) uint8 or uint16, rounded.

    Raises:
        ValueError: another number of bits.
    """
    if bits not in (8, 16):
        raise ValueError(f'bits: got {bits}, expected 8 or 16')
    result = np.empty(alpha.shape, np.uint8 if bits == 8 else np.uint16)
    for top, bottom in row_chunks(0, *alpha.shape):
        result[top:bottom] = np.rint(alpha[top:bottom] * np.float32(2**bits - 1))
    return result


def straight_rgba(foreground: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Foreground and alpha side by side, not multiplied.

    Args:
        foreground: (H, W, 3) RGB.
        alpha: (H, W) in [0, 1].

    Returns:
        (H, W, 4).
    """
    merged: NDArray = cv2.merge([foreground, alpha_picture(alpha)])
    return merged


def composite(
    foreground: NDArray[np.uint8],
    alpha: NDArray[np.float32],
    backdrop: Backdrop,
    *,
    linear_light: bool = False,
) -> NDArray[np.uint8]:
    """alpha * F + (1 - alpha) * B.

    Args:
        foreground: (H, W, 3) RGB.
        alpha: (H, W) in [0, 1].
        backdrop: the new background, such as `color_backdrop` makes.
        linear_light: mix amounts of light, as a lens does, instead of the numbers of sRGB, as most programs do.
            Soft edges before dark backgrounds become brighter. Colours are taken for sRGB.

    Returns:
        (H, W, 3) RGB.
    """
    result = np.empty_like(foreground)
    for top, bottom in row_chunks(0, *alpha.shape):
        front = foreground[top:bottom]
        back = backdrop(top, bottom)
        share = cv2.merge([alpha[top:bottom]] * 3)
        if linear_light:
            mixed = _mix(to_light(front), to_light(_rounded(back)), share)
            result[top:bottom] = from_light(mixed)
        else:
            mixed = _mix(front.astype(np.float32), back.astype(np.float32), share)
            result[top:bottom] = _rounded(mixed)
    return result


def color_backdrop(color: tuple[int, int, int], width: int) -> Backdrop:
    """One colour, RGB in 0..255."""
    row = np.tile(np.asarray(color, np.uint8), (width, 1))
    return lambda top, bottom: np.broadcast_to(row, (bottom - top, *row.shape))


def image_backdrop(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Backdrop:
    """An image that covers the whole: enlarged or reduced by one factor, and cut evenly on two sides.

    Args:
        pixels: (h, w, 3) RGB.
        size: (H, W) of the picture.
    """
    height, width = size
    own_height, own_width = pixels.shape[:2]
    scale = max(height / own_height, width / own_width)
    # The part that stays visible, at least one pixel, in the middle.
    part_height = min(own_height, max(1, round(height / scale)))
    part_width = min(own_width, max(1, round(width / scale)))
    top, left = (own_height - part_height) // 2, (own_width - part_width) // 2
    part = pixels[top : top + part_height, left : left + part_width]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted = cv2.resize(part, (width, height), interpolation=method)
    return lambda top, bottom: fitted[top:bottom]


def blur_backdrop(
    image: NDArray[np.uint8], alpha: NDArray[np.float32], blur: float = BLUR
) -> Backdrop:
    """The photo's own background out of focus.

    Only the background is averaged: blurring the whole photo would surround the foreground with a glow of its colours.

    Args:
        image: (H, W, 3) RGB.
        alpha: (H, W) in [0, 1].
        blur: standard deviation as a share of the longer side.

    Raises:
        ValueError: `blur` is not above 0, or above 1.
    """
    if not 0 < blur <= 1:
        raise ValueError(f'blur: got {blur}, expected a share of the longer side, 0 < blur <= 1')
    height, width = alpha.shape
    scale = min(1.0, BLURRED_SIDE / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    reduced: NDArray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    low: NDArray = reduced.astype(np.float32)
    # A trace of foreground everywhere: where no background is near, something must be seen.
    rest = 1 - cv2.resize(alpha, size, interpolation=cv2.INTER_AREA).clip(0, 1) + 1e-4
    sigma = blur * max(size)
    amount: NDArray = cv2.GaussianBlur(rest, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    low *= cv2.merge([rest] * 3)
    blurred: NDArray = cv2.GaussianBlur(low, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    mean: NDArray = blurred / cv2.merge([amount] * 3)
    return RowUpsampler(mean, (height, width)).rows


def to_light(colors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Amounts of light in [0, 1] of sRGB values (IEC 61966-2-1)."""
    return _LIGHT[colors]


def from_light(light: NDArray[np.float32]) -> NDArray[np.uint8]:
    """sRGB values of amounts of light in [0, 1], rounded to the nearest."""
    # Half way between two values in sRGB lies the border between them.
    return np.searchsorted(_BORDERS, light).astype(np.uint8)


def _light(values: NDArray) -> NDArray[np.float32]:
    share = values / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


_LIGHT = _light(np.arange(256))
_BORDERS = _light(np.arange(255) + 0.5)


def _mix(front: NDArray, back: NDArray, share: NDArray) -> NDArray:
    mixed = front - back
    mixed *= share
    mixed += back
    return mixed


def _rounded(values: NDArray) -> NDArray[np.uint8]:
    return values if values.dtype == np.uint8 else np.rint(values).astype(np.uint8)
