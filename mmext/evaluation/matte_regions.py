"""Mattes as regions: confusion counts of the whole image and of the bands around its edges, and how well outlines agree.

All mattes are (H, W) float32 in [0, 1].
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Matte = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Alphas above are opaque: the largest that 8 bits hold below 1.
OPAQUE = 254 / 255
# DAVIS (Perazzi et al., CVPR 2016): outlines within this share of the image's diagonal agree.
OUTLINE_TOLERANCE = 0.008


class Counts(NamedTuple):
    """Pixels by what they are and what they were taken for. Sums of counts are counts."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    def plus(self, other: 'Counts') -> 'Counts':
        """Both together."""
        return Counts(*(own + more for own, more in zip(self, other, strict=True)))

    def scores(self) -> dict[str, float]:
        """IoU, Dice, accuracy, sensitivity, specificity, precision and F1, all in [0, 1].

        A score whose denominator is 0 is 1 if there is no error at all, else 0. Dice and F1 are the same number.
        """
        hit, false, missed, rest = self
        dice = self._share(2 * hit, 2 * hit + false + missed)
        return {
            'IoU': self._share(hit, hit + false + missed),
            'Dice': dice,
            'accuracy': self._share(hit + rest, sum(self)),
            'sensitivity': self._share(hit, hit + missed),
            'specificity': self._share(rest, rest + false),
            'precision': self._share(hit, hit + false),
            'F1': dice,
        }

    def _share(self, part: int, whole: int) -> float:
        if whole:
            return part / whole
        return float(self.false_positive + self.false_negative == 0)


NO_COUNTS = Counts(0, 0, 0, 0)


def outcomes(prediction: Matte, truth: Matte, threshold: float = 0.5) -> NDArray[np.uint8]:
    """What each pixel is: 0 true negative, 1 false positive, 2 false negative, 3 true positive.

    Positive is an alpha above the threshold.
    """
    positive, wanted = prediction > threshold, truth > threshold
    return positive.view(np.uint8) + 2 * wanted.view(np.uint8)


def count(outcome: NDArray[np.uint8]) -> Counts:
    """Counts of pixels from their outcomes, of any shape."""
    negative, false, missed, hit = np.bincount(outcome.ravel(), minlength=4).tolist()
    return Counts(hit, false, missed, negative)


def edge_distance(truth: Matte) -> Matte:
    """How far each pixel is from being undecided: the radius of the trimap that makes it unknown. (H, W) >= 0.

    A trimap of radius r erodes the opaque (alpha >= 254 / 255) and the empty (alpha = 0) region with a disc; what is left
    between them is unknown. Infinite where all is opaque or all is empty.
    """
    opaque, empty = truth >= OPAQUE, truth <= 0
    return np.maximum(_distance_to(~opaque), _distance_to(~empty))


def count_bands(
    outcome: NDArray[np.uint8], distance: Matte, radii: Sequence[float], valid: Mask | None = None
) -> list[Counts]:
    """Counts within the unknown region of the trimap of each radius.

    Args:
        outcome: see `outcomes`.
        distance: see `edge_distance`.
        radii: ascending, in pixels.
        valid: the pixels that count; None for all.
    """
    selected = distance <= radii[-1] if len(radii) else np.zeros(distance.shape, bool)
    if valid is not None:
        selected &= valid
    # Only the first band that has a pixel counts it; the sums add the inner bands.
    band = np.searchsorted(np.asarray(radii, np.float32), distance[selected])
    table = np.bincount(4 * band + outcome[selected], minlength=4 * len(radii)).reshape(-1, 4)
    return [
        Counts(hit, false, missed, rest)
        for rest, false, missed, hit in np.cumsum(table, axis=0).tolist()
    ]


def outline_score(prediction: Mask, truth: Mask, tolerance: float = OUTLINE_TOLERANCE) -> float:
    """Boundary F: harmonic mean of the shares of each outline that lie near the other; 1 where there is none in both.

    Args:
        prediction: (H, W).
        truth: (H, W).
        tolerance: what is near, as a share of the diagonal; rounded up to whole pixels.
    """
    outline, true_outline = _outline(prediction), _outline(truth)
    if not outline.any() or not true_outline.any():
        return float(not outline.any() and not true_outline.any())
    reach = math.ceil(tolerance * math.hypot(*truth.shape))
    precision = float((_distance_to(true_outline)[outline] <= reach).mean())
    recall = float((_distance_to(outline)[true_outline] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _outline(mask: Mask) -> Mask:
    """Pixels of the mask that have one of their four neighbours, inside of the image, outside of the mask."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # OpenCV's own border erodes nothing: where a person is cut by the frame there is no outline to find.
    return mask & (cv2.erode(mask.view(np.uint8), cross) == 0)


def _distance_to(mask: Mask) -> Matte:
    """Euclidean distance of every pixel to the nearest one of the mask; infinite if it is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    distance = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, np.float32)
