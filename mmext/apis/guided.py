"""Guided upsampling: an alpha of the network's size becomes one of the photo's size, with the photo's edges.

Fast guided filter (He and Sun, "Fast Guided Filter", arXiv 1505.00996): within every small window alpha is taken for
a linear function of the grey value, alpha = a * grey + b. The coefficients are found at the size of the network, are
smooth, and are enlarged; the photo's own grey values make alpha of them.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from mmext.apis.rows import CHUNK_PIXELS, RowUpsampler, row_chunks

RADIUS = 1
# Of 1e-5 to 1e-2 the best on five portraits with hair whose true mattes were reduced to 512 pixels; smaller ones copy
# noise. (There, plain bilinear enlargement has the smaller mean error; the filter has the sharper edges.)
EPSILON = 1e-3
# What resizing in float32 may add.
ROUNDING = 1e-3


def guided_upsample(
    alpha: NDArray[np.float32],
    image: NDArray[np.uint8],
    *,
    radius: int = RADIUS,
    epsilon: float = EPSILON,
    chunk_pixels: int = CHUNK_PIXELS,
) -> NDArray[np.float32]:
    """Bring an alpha to the size of its image.

    Rows are made in pieces, each equal to the same rows of the whole: only the coefficients look at neighbours, and
    they are small.

    Args:
        alpha: (h, w) in [0, 1]. Where it is longer than the image it is reduced by area first; one of the image's
            size is returned as it is.
        image: (H, W, 3) RGB.
        radius: of the windows, in pixels of `alpha`.
        epsilon: variance of grey, in [0, 1]**2, below which a window counts as flat. Smaller values copy more of
            the image's texture and noise into alpha.
        chunk_pixels: size of a piece.

    Returns:
        (H, W) in [0, 1].

    Raises:
        ValueError: an array of another kind.
    """
    alpha = checked_alpha(alpha)
    check_image(image)
    height, width = image.shape[:2]
    inner = min(alpha.shape[0], height), min(alpha.shape[1], width)
    if inner != alpha.shape:
        alpha = cv2.resize(alpha, inner[::-1], interpolation=cv2.INTER_AREA).clip(0, 1)
    if alpha.shape == (height, width):
        return alpha

    slope, offset = guide_coefficients(alpha, _reduced_grey(image, inner), radius, epsilon)
    slopes, offsets = (RowUpsampler(low, (height, width)) for low in (slope, offset))
    full = np.empty((height, width), np.float32)
    for top, bottom in row_chunks(0, height, width, chunk_pixels):
        grey = cv2.cvtColor(image[top:bottom], cv2.COLOR_RGB2GRAY).astype(np.float32)
        rows = slopes.rows(top, bottom)
        rows *= grey
        rows += offsets.rows(top, bottom)
        np.clip(rows, 0, 1, out=full[top:bottom])
    return full


def guide_coefficients(
    alpha: NDArray[np.float32], grey: NDArray[np.float32], radius: int, epsilon: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slope and offset of alpha as a linear function of grey, around every pixel.

    Args:
        alpha: (h, w) in [0, 1].
        grey: (h, w) in [0, 255].
        radius: windows have a side of 2 * radius + 1; the border's values continue outside.
        epsilon: as in `guided_upsample`.

    Returns:
        slope: (h, w) of alpha for one of 255 grey values.
        offset: (h, w).
    """
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(values: NDArray) -> NDArray:
        return cv2.blur(values, side, borderType=cv2.BORDER_REPLICATE)

    # float64: the variance of a flat bright window is a small difference of large numbers.
    alpha, grey = alpha.astype(np.float64), grey / 255.0  # type: ignore[assignment]
    mean_grey, mean_alpha = mean(grey), mean(alpha)
    covariance = mean(grey * alpha) - mean_grey * mean_alpha
    variance = mean(grey * grey) - mean_grey**2
    slope = covariance / (np.maximum(variance, 0) + epsilon)
    offset = mean_alpha - slope * mean_grey
    return (slope / 255).astype(np.float32), offset.astype(np.float32)


def check_image(image: NDArray) -> None:
    """Refuses what is no 8-bit colour image.

    Raises:
        ValueError: another shape or type, or no pixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f'got an image of shape {image.shape} and type {image.dtype}, expected (H, W, 3) uint8 in RGB'
        )


def checked_alpha(alpha: NDArray) -> NDArray[np.float32]:
    """The alpha with its rounding errors cut off.

    Raises:
        ValueError: another shape or type than (H, W) float32, no pixels, or values outside [0, 1].
    """
    if alpha.ndim != 2 or alpha.dtype != np.float32 or not alpha.size:
        raise ValueError(
            f'got an alpha of shape {alpha.shape} and type {alpha.dtype}, expected (H, W) float32'
        )
    low, high = alpha.min(), alpha.max()
    # NaN fails every comparison.
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(
            f'got an alpha with values from {low:.4g} to {high:.4g}, expected [0, 1]: divide 8-bit values by 255'
        )
    return alpha if low >= 0 and high <= 1 else alpha.clip(0, 1)


def _reduced_grey(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w) in [0, 255], every pixel the mean of those it covers."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
