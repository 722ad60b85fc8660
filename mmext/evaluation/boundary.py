"""Boundary IoU: how well outlines agree (Cheng et al., CVPR 2021, https://arxiv.org/abs/2103.16562).

The boundary of a mask are its pixels within a fixed distance of its outline; the boundary IoU of two masks is the IoU of
their boundaries. Mask IoU hardly notices the outline of a large object, boundary IoU does. For small objects the two
are equal: all of them is boundary.

Masks travel as run lengths, and each is unpacked inside its own box only.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mmext.structures.rle import decode_roi, encode_roi

# The paper: 2 % of the diagonal, about 15 pixels in an image of COCO.
DILATION_RATIO = 0.02


def boundary_width(size: Sequence[int], ratio: float = DILATION_RATIO) -> int:
    """Pixels from the outline that belong to the boundary, at least 1.

    Args:
        size: (height, width) of the image.
        ratio: share of the image's diagonal.
    """
    return max(1, round(ratio * math.hypot(*size)))


def mask_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask that have a pixel outside of it within `width` rows and columns.

    All beyond the array counts as outside: beyond a mask's rectangle because the mask is empty there, beyond the image
    because the paper wants the cut edge of an object to be boundary.

    Args:
        mask: (rows, columns) bool.
        width: at least 1.

    Returns:
        (rows, columns) bool.
    """
    if min(mask.shape) <= 2 * width:
        return mask  # no pixel is farther than `width` from the edge of the array
    padded = np.pad(mask, 1).astype(np.uint8)
    # OpenCV's own padding leaves eroded pixels alone; the zeros of ours are what erodes at the edge.
    inside = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=width)
    return mask & (inside[1:-1, 1:-1] == 0)


def boundary_rle(rle: dict, ratio: float = DILATION_RATIO) -> dict:
    """The boundary of a mask, both as COCO run lengths: `size` [height, width], `counts` bytes."""
    mask, x1, y1 = decode_roi(rle)
    boundary = mask_boundary(mask, boundary_width(rle['size'], ratio))
    return encode_roi(boundary, x1, y1, tuple(rle['size']))


def boundary_ious(
    rles: Sequence[dict], others: Sequence[dict], ratio: float = DILATION_RATIO
) -> np.ndarray:
    """Boundary IoU of all pairs.

    Args:
        rles: n masks as COCO run lengths.
        others: m masks of images of the same size.
        ratio: share of the image's diagonal within which pixels are boundary.

    Returns:
        (n, m) float64 in [0, 1]; 0 for an empty mask.
    """
    if not rles or not others:
        return np.zeros((len(rles), len(others)))
    boundaries, other_boundaries = (
        [boundary_rle(rle, ratio) for rle in group] for group in (rles, others)
    )
    return np.asarray(coco_mask.iou(boundaries, other_boundaries, [False] * len(others)))
