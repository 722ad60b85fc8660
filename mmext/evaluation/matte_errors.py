"""Errors of one matte: gradient and connectivity errors, structural similarity, flicker between frames.

Definitions of the alpha matting benchmark (Rhemann et al., CVPR 2009); the connectivity follows the public Python version,
about 5 % below the original MATLAB code, so nothing here compares with a leaderboard. Other than some tools, no matte is
stretched to [0, 1] before its gradients are taken.

All mattes are (H, W) float32 in [0, 1]. Sums are sums: who prints thousands says so in the name.
"""

import math
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Matte = NDArray[np.float32]

GRADIENT_SIGMA = 1.4
CONNECTIVITY_STEPS = 10
# Smaller distances to the connected part count as connected.
CONNECTIVITY_TOLERANCE = 0.15
_SSIM_SIGMA = 1.5
_SSIM_SIDE = 11
# Wang et al., 2004: (0.01 L)^2 and (0.03 L)^2 for a range L of 1.
_SSIM_CONSTANTS = (1e-4, 9e-4)


class GradientErrors(NamedTuple):
    """Sums over the pixels.

    Attributes:
        squared: (|grad prediction| - |grad truth|)^2, the error of the benchmark.
        absolute: |grad prediction - grad truth|, the length of the difference.
    """

    squared: float
    absolute: float


def gradient_errors(prediction: Matte, truth: Matte) -> GradientErrors:
    """Compare the gradients of Gaussian filters, sigma 1.4, 9 x 9 pixels, of length 1, borders repeated."""
    columns, rows = _gradient(prediction)
    true_columns, true_rows = _gradient(truth)
    length = cv2.subtract(cv2.magnitude(columns, rows), cv2.magnitude(true_columns, true_rows))
    columns -= true_columns
    rows -= true_rows
    # OpenCV sums in float64.
    return GradientErrors(
        cv2.norm(length, cv2.NORM_L2SQR), cv2.norm(cv2.magnitude(columns, rows), cv2.NORM_L1)
    )


def connectivity_error(prediction: Matte, truth: Matte) -> float:
    """Sum of the differences in how far pixels are from being connected to the subject.

    The subject at a level is the largest 4-connected part of what both mattes have at that level or above. The level of
    a pixel is the last of 0, 0.1, ... 1 before it leaves the subject.
    """
    both = np.minimum(prediction, truth)
    steps = np.zeros(both.shape, np.uint8)  # how many of 0.1, ... 1 a pixel reaches in both
    for step in range(1, CONNECTIVITY_STEPS + 1):
        steps += both >= np.float32(step / CONNECTIVITY_STEPS)
    reached = np.zeros(both.shape, np.uint8)
    inside = np.ones(both.shape, bool)
    for step in range(1, CONNECTIVITY_STEPS + 1):
        inside &= _largest_part(steps >= step)
        if not inside.any():
            break
        reached += inside
    level = np.divide(reached, CONNECTIVITY_STEPS, dtype=np.float32)
    difference = _connectedness(prediction, level) - _connectedness(truth, level)
    return cv2.norm(difference, cv2.NORM_L1)


def structural_similarity(prediction: Matte, truth: Matte) -> float:
    """Mean SSIM in [-1, 1] with a Gaussian window of 11 x 11 pixels, sigma 1.5, as in the paper.

    Windows that leave the image are left out, except where all of them do: then the image is mirrored at its border.
    """
    # float64: variances are small differences of large numbers.
    own, other = prediction.astype(np.float64), truth.astype(np.float64)
    blur = _ssim_window
    mean, true_mean = blur(own), blur(other)
    product, square, true_square = mean * true_mean, mean**2, true_mean**2
    covariance = blur(own * other) - product
    variances = blur(own**2) - square + blur(other**2) - true_square
    stable_mean, stable_variance = _SSIM_CONSTANTS
    similarity = (2 * product + stable_mean) * (2 * covariance + stable_variance)
    similarity /= (square + true_square + stable_mean) * (variances + stable_variance)
    margin = _SSIM_SIDE // 2
    if min(similarity.shape) > 2 * margin:
        similarity = similarity[margin:-margin, margin:-margin]
    return float(similarity.mean())


def flicker(previous: tuple[Matte, Matte], current: tuple[Matte, Matte]) -> float:
    """Root mean square of how differently prediction and truth change from one frame to the next, in [0, 2].

    Args:
        previous: prediction and truth of a frame.
        current: prediction and truth of the next.
    """
    change = current[0] - previous[0]
    change -= current[1] - previous[1]
    return math.sqrt(cv2.norm(change, cv2.NORM_L2SQR) / change.size)


@cache
def _gradient_kernels() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian and its derivative; their outer product has length 1."""
    # Where the Gaussian falls below a hundredth.
    half = math.ceil(
        GRADIENT_SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * GRADIENT_SIGMA * 0.01))
    )
    x = np.arange(-half, half + 1)
    gauss = np.exp(-(x**2) / (2 * GRADIENT_SIGMA**2))
    slope = x * gauss
    return gauss / np.linalg.norm(gauss), slope / np.linalg.norm(slope)


def _gradient(matte: Matte) -> tuple[Matte, Matte]:
    """Along the columns and along the rows."""
    gauss, slope = _gradient_kernels()
    border = cv2.BORDER_REPLICATE
    columns = cv2.sepFilter2D(matte, cv2.CV_32F, slope, gauss, borderType=border)
    rows = cv2.sepFilter2D(matte, cv2.CV_32F, gauss, slope, borderType=border)
    return np.asarray(columns, np.float32), np.asarray(rows, np.float32)


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest 4-connected part, the first of equal ones; nothing of nothing."""
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=4
    )
    if num_labels <= 2:
        return mask
    return labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])


def _connectedness(matte: Matte, level: Matte) -> Matte:
    distance = matte - level
    return np.where(distance >= CONNECTIVITY_TOLERANCE, 1 - distance, np.float32(1))


def _ssim_window(matte: NDArray[np.float64]) -> NDArray[np.float64]:
    side = (_SSIM_SIDE, _SSIM_SIDE)
    blurred = cv2.GaussianBlur(matte, side, _SSIM_SIGMA, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float64)
