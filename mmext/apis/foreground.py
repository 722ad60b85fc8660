"""Colours of the foreground alone, without the old background that shines through at soft edges.

A photo is I = alpha * F + (1 - alpha) * B. Cutting it out with its own colours I carries a share of B along, the
well-known halo; F must be estimated. Alpha is never touched.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import cv2
import numpy as np
from numpy.typing import NDArray

from mmext.apis.guided import check_image, checked_alpha
from mmext.apis.rows import CHUNK_PIXELS, RowUpsampler, row_chunks

# Sides of the windows of the two passes; the source has 90 and 6, odd ones look as far to the left as to the right.
SIDES = (91, 7)
# Keeps a window without foreground, or without background, at colour 0 instead of 0 / 0.
FEW = 1e-5
# Where alpha is 0 the multilevel estimate fills in this far around the foreground, and looks as far at the background.
MARGIN = 64
# Above this the multilevel method works on a reduced image: it needs about 80 bytes a pixel.
MULTILEVEL_PIXELS = 4 * 2**20

Box = tuple[slice, slice]

_ONE_AT_A_TIME = threading.Lock()


def estimate_foreground(
    image: NDArray[np.uint8], alpha: NDArray[np.float32], method: str
) -> NDArray[np.uint8]:
    """The colours of the foreground, by one of `METHODS`.

    Args:
        image: (H, W, 3) RGB.
        alpha: (H, W) in [0, 1].
        method: 'blur' (fast), 'ml' (pymatting's multilevel estimate) or 'none', the photo's own colours.

    Returns:
        (H, W, 3) RGB: the image's own colours where alpha is 1. Where it is 0 the estimate fades to black, so that
        nothing of the background stays in a file.

    Raises:
        ValueError: an unknown method; arrays of another kind or of different sizes.
        ImportError: 'ml' without pymatting.
    """
    if method not in METHODS:
        raise ValueError(f'foreground: got {method!r}, expected one of {", ".join(METHODS)}')
    check_image(image)
    alpha = checked_alpha(alpha)
    if alpha.shape != image.shape[:2]:
        raise ValueError(
            f'got an alpha of size {alpha.shape} for an image of size {image.shape[:2]}, expected equal sizes; '
            'guided_upsample brings an alpha to the size of its image'
        )
    return METHODS[method](image, alpha)


def own_colors(image: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image where anything of the foreground is seen, elsewhere black; shapes as in `estimate_foreground`."""
    seen: NDArray = cv2.copyTo(image, (alpha > 0).view(np.uint8))
    return seen


def blur_fusion(
    image: NDArray[np.uint8],
    alpha: NDArray[np.float32],
    *,
    sides: tuple[int, ...] = SIDES,
    chunk_pixels: int = CHUNK_PIXELS,
) -> NDArray[np.uint8]:
    """Foreground by means of neighbours, corrected so that the matting equation holds.

    Forte, "Approximate fast foreground colour estimation", ICIP 2021. A second pass with a small window starts from
    the result of the first one. Made in pieces with as many rows around as the windows reach.

    Args:
        image: (H, W, 3) RGB.
        alpha: (H, W) in [0, 1].
        sides: of the windows of every pass, odd.
        chunk_pixels: size of a piece.

    Returns:
        (H, W, 3) RGB; black where no foreground lies within the last window.
    """
    result = np.zeros_like(image)
    height, width = alpha.shape
    # Outside all of this the last window is empty, and the result is 0.
    box = _foreground_box(alpha, sides[-1] // 2)
    if box is None:
        return result
    reach = sum(side // 2 for side in sides)
    left, right = box[1].start, box[1].stop
    columns = slice(max(0, left - reach), min(width, right + reach))
    for top, bottom in row_chunks(box[0].start, box[0].stop, right - left, chunk_pixels):
        rows = slice(max(0, top - reach), min(height, bottom + reach))
        found = _fuse(image[rows, columns], alpha[rows, columns], sides)
        inner = found[top - rows.start : bottom - rows.start, left - columns.start :]
        result[top:bottom, left:right] = inner[:, : right - left]
    return result


def multilevel(
    image: NDArray[np.uint8], alpha: NDArray[np.float32], *, max_pixels: int = MULTILEVEL_PIXELS
) -> NDArray[np.uint8]:
    """Foreground by pymatting's multilevel method, the more exact one.

    Germer et al., "Fast Multi-Level Foreground Estimation", ICPR 2020. The part of the image around the foreground
    is looked at. If that is larger than `max_pixels`, foreground and background are estimated on a reduced copy,
    enlarged, and corrected with the colours of the full size.

    Args:
        image: (H, W, 3) RGB.
        alpha: (H, W) in [0, 1].
        max_pixels: that pymatting works on.

    Raises:
        ImportError: without pymatting.
    """
    result = np.zeros_like(image)
    box = _foreground_box(alpha, MARGIN)
    if box is None:
        return result
    part, part_alpha = image[box], alpha[box]
    height, width = part_alpha.shape
    scale = min(1.0, (max_pixels / (height * width)) ** 0.5)
    size = max(1, int(scale * width)), max(1, int(scale * height))
    low_image: NDArray = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    low_alpha: NDArray = cv2.resize(part_alpha, size, interpolation=cv2.INTER_AREA)
    lows = _multilevel_colors(low_image, low_alpha)
    foregrounds, backgrounds = (RowUpsampler(low, (height, width)) for low in lows)
    for top, bottom in row_chunks(0, height, width):
        own = part[top:bottom].astype(np.float32)
        share = cv2.merge([part_alpha[top:bottom]] * 3)
        found = foregrounds.rows(top, bottom)
        if scale < 1:
            found = _satisfy(own, share, found, backgrounds.rows(top, bottom))
        found = np.where(share == 1, own, found)
        result[box][top:bottom] = np.rint(found)
    return result


METHODS: dict[str, Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.uint8]]] = {
    'ml': multilevel,
    'blur': blur_fusion,
    'none': own_colors,
}


def _foreground_box(alpha: NDArray[np.float32], margin: int) -> Box | None:
    """Rows and columns that hold all foreground and a margin; None if there is none."""
    seen = (alpha > 0).view(np.uint8)
    left, top, width, height = cv2.boundingRect(seen)
    if not width:
        return None
    return (
        slice(max(0, top - margin), min(alpha.shape[0], top + height + margin)),
        slice(max(0, left - margin), min(alpha.shape[1], left + width + margin)),
    )


def _fuse(
    image: NDArray[np.uint8], alpha: NDArray[np.float32], sides: tuple[int, ...]
) -> NDArray[np.uint8]:
    """The passes of `blur_fusion` on one piece."""
    own: NDArray = image.astype(np.float32)
    share: NDArray = cv2.merge([alpha] * 3)
    rest: NDArray = 1 - share
    foreground: NDArray = own
    background: NDArray = own
    for side in sides:
        window = (side, side)
        mean_share = cv2.merge([cv2.blur(alpha, window)] * 3)
        foreground = cv2.blur(foreground * share, window)
        foreground /= mean_share + FEW
        background = cv2.blur(background * rest, window)
        background /= 1 - mean_share + FEW
        foreground = _satisfy(own, share, foreground, background)
    return np.rint(foreground).astype(np.uint8)


def _satisfy(own: NDArray, share: NDArray, foreground: NDArray, background: NDArray) -> NDArray:
    """F + alpha (I - alpha F - (1 - alpha) B) in [0, 255]: the step towards the matting equation."""
    # I - B - alpha (F - B), with as few passes over memory as can be
    error = foreground - background
    error *= share
    np.subtract(own, error, out=error)
    error -= background
    error *= share
    error += foreground
    return np.clip(error, 0, 255, out=error)


def _multilevel_colors(
    image: NDArray[np.uint8], alpha: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Foreground and background, (h, w, 3) in [0, 255]."""
    # Its number of levels, log2 of the longer side, is what it divides by.
    if max(alpha.shape) == 1:
        own = image.astype(np.float32)
        return own, own
    try:
        from pymatting import estimate_foreground_ml
    except ImportError as error:
        raise ImportError(
            "foreground 'ml' needs pymatting: pip install 'mmext[app]', or choose 'blur'"
        ) from error
    with _turn():
        found = estimate_foreground_ml(image / np.float32(255), alpha, return_background=True)
    return found[0] * 255, found[1] * 255


def _turn() -> AbstractContextManager:
    """A turn at pymatting for this thread.

    Its numba runs on OpenMP or TBB; where neither is there (wheels for macOS), on threads of its own, and ends the process
    when two threads of Python come at once. Which it is, is known once it has run.
    """
    import numba

    try:
        is_safe = numba.threading_layer() != 'workqueue'
    except ValueError:
        is_safe = False
    return nullcontext() if is_safe else _ONE_AT_A_TIME
