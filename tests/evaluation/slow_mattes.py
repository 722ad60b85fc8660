"""The errors of mattes by their definitions: loops and SciPy in float64, slow and easy to check."""

import math

import numpy as np
from scipy import ndimage

SIGMA = 1.4


def gradient(matte):
    """Filtered with sampled Gaussian derivatives of 9 x 9, of length 1: (2, H, W)."""
    half = 4
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    for row in range(-half, half + 1):
        for column in range(-half, half + 1):
            gauss = [math.exp(-(x**2) / (2 * SIGMA**2)) for x in (row, column)]
            kernel[row + half, column + half] = -column * gauss[0] * gauss[1]
    kernel /= math.sqrt((kernel**2).sum())
    matte = matte.astype(np.float64)
    return np.stack([ndimage.correlate(matte, own, mode='nearest') for own in (kernel, kernel.T)])


def gradient_errors(prediction, truth):
    own, true = gradient(prediction), gradient(truth)
    lengths = np.sqrt((own**2).sum(0)), np.sqrt((true**2).sum(0))
    return ((lengths[0] - lengths[1]) ** 2).sum(), np.sqrt(((own - true) ** 2).sum(0)).sum()


def connectivity_error(prediction, truth):
    """Pixel by pixel: the last threshold before the pixel leaves the largest part of both."""
    thresholds = [np.float32(step / 10) for step in range(11)]
    parts = []
    for threshold in thresholds[1:]:
        labels, num = ndimage.label((prediction >= threshold) & (truth >= threshold))
        sizes = [(labels == label).sum() for label in range(1, num + 1)]
        parts.append(labels == 1 + np.argmax(sizes) if sizes else np.zeros_like(labels, bool))
    total = 0.0
    for row, column in np.ndindex(truth.shape):
        level = 0.0
        for threshold, part in zip(thresholds[1:], parts, strict=True):
            if not part[row, column]:
                break
            level = float(threshold)
        phi = []
        for matte in (prediction, truth):
            distance = float(matte[row, column]) - level
            phi.append(1 - distance * (distance >= 0.15))
        total += abs(phi[0] - phi[1])
    return total


def unknown(truth, radius):
    """Pixels of which neither all within the radius are opaque nor all are empty."""
    reach = range(-radius, radius + 1)
    disc = [(y, x) for y in reach for x in reach if y * y + x * x <= radius * radius]
    found = np.zeros(truth.shape, bool)
    for row, column in np.ndindex(truth.shape):
        near = [
            truth[row + y, column + x]
            for y, x in disc
            if 0 <= row + y < truth.shape[0] and 0 <= column + x < truth.shape[1]
        ]
        is_opaque = min(near) >= np.float32(254 / 255)
        found[row, column] = not is_opaque and max(near) > 0
    return found
