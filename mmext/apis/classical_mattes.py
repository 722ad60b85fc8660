"""Foreground without learning, from OpenCV: what a trained model has to beat.

Both know nothing but that the subject keeps clear of the image's margin.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

MARGIN = 0.05
GRABCUT_ITERATIONS = 5
MIN_SIDE = 20
# A core of the subject: farther from its outline than this share of the largest distance.
CORE_SHARE = 0.5

Image = NDArray[np.uint8]


def grabcut_matte(image: Image) -> Image:
    """GrabCut (Rother et al., 2004): 5 iterations from the rectangle that leaves 5 % on each side.

    Args:
        image: (H, W, 3) BGR, sides of at least 20.

    Returns:
        (H, W) of 0 and 255. The same for the same image: OpenCV's generator is seeded.

    Raises:
        ValueError: the image is too small, or OpenCV cannot cut it.
    """
    height, width = _checked(image)
    left, top = round(MARGIN * width), round(MARGIN * height)
    mask = np.zeros((height, width), np.uint8)
    cv2.setRNGSeed(0)
    models = np.zeros((2, 1, 65))
    try:
        cv2.grabCut(
            image,
            mask,
            (left, top, width - 2 * left, height - 2 * top),
            models[0],
            models[1],
            GRABCUT_ITERATIONS,
            cv2.GC_INIT_WITH_RECT,
        )
    except cv2.error as error:
        raise ValueError(f'GrabCut cannot cut this image: {error}') from error
    return np.where(mask % 2 == 1, np.uint8(255), np.uint8(0))  # GC_FGD is 1, GC_PR_FGD 3


def watershed_matte(image: Image) -> Image:
    """Watershed from markers: Otsu's threshold, of whose sides the one that is rarer in the margin is the subject.

    The core of the subject and all beyond its surroundings are the markers; the flood decides in between.

    Args:
        image: (H, W, 3) BGR, sides of at least 20.

    Returns:
        (H, W) of 0 and 255.

    Raises:
        ValueError: the image is too small.
    """
    height, width = _checked(image)
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (5, 5), 0)
    bright = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    frame = np.ones((height, width), bool)
    left, top = round(MARGIN * width), round(MARGIN * height)
    frame[top : height - top, left : width - left] = False
    subject = bright if bright[frame].mean() < 127.5 else 255 - bright
    subject[frame] = 0
    subject = cv2.morphologyEx(subject, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8), iterations=2)
    distance = cv2.distanceTransform(subject, cv2.DIST_L2, 5)
    core = (distance > CORE_SHARE * distance.max()) & (subject > 0)
    beyond = cv2.dilate(subject, np.ones((3, 3), np.uint8), iterations=3) == 0
    num_parts, parts = cv2.connectedComponents(core.astype(np.uint8))
    if num_parts == 1:  # nothing stands out
        return np.zeros((height, width), np.uint8)
    # 0 is undecided for the watershed: the background becomes 1, the parts of the subject 2, 3, ...
    markers = np.where(core, parts + 1, np.where(beyond, 1, 0)).astype(np.int32)
    flooded = cv2.watershed(image, markers)
    return np.where(flooded > 1, np.uint8(255), np.uint8(0))


def _checked(image: Image) -> tuple[int, int]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f'got an image of shape {image.shape} and {image.dtype}, expected (H, W, 3) of 8 bits'
        )
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(f'got an image of {width} x {height}, expected sides of {MIN_SIDE} pixels')
    return height, width
