"""Affine maps of images, boxes and masks.

Matrices are (3, 3) and map continuous (x, y) of the input to continuous (x, y) of the output; see
objects.py for what continuous means.

Legend: n objects, h x w the image before, H x W the image after.
"""

import cv2
import numpy as np

from mmext.datasets.transforms.objects import (
    Objects,
    box_areas,
    clip_boxes,
    mask_extents,
)


def translation(x: float, y: float) -> np.ndarray:
    """Make the (3, 3) matrix that moves by (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def scaling(x: float, y: float) -> np.ndarray:
    """Make the (3, 3) matrix that scales by (x, y) about the origin."""
    return np.diag([x, y, 1.0])


def record_homography(results: dict, matrix: np.ndarray) -> None:
    """Chain a matrix to the sample's `homography_matrix`, as mmdet's transforms do."""
    earlier = results.get('homography_matrix')
    matrix = matrix.astype(np.float32)
    results['homography_matrix'] = matrix if earlier is None else matrix @ earlier


def warp_image(
    image: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    pad_val: int = 0,
    interpolation: int = cv2.INTER_LINEAR,
) -> np.ndarray:
    """Warp an image by an affine matrix in continuous coordinates.

    OpenCV's matrices map pixel indices, which lie half a pixel before the centres they stand for:
    with them, an image that is scaled by 2 moves by half a pixel against its boxes.

    Args:
        image: (h, w) or (h, w, c) uint8.
        matrix: (3, 3), input to output.
        size: (W, H) of the output.
        pad_val: Value outside the input.
        interpolation: An OpenCV constant.

    Returns:
        (H, W) or (H, W, c).
    """
    indices = matrix[:2].astype(np.float64)
    indices[:, 2] += indices[:, :2] @ (0.5, 0.5) - 0.5
    border = (pad_val,) * 4
    return cv2.warpAffine(image, indices, size, flags=interpolation, borderValue=border)


def fit(
    image: np.ndarray, size: tuple[int, int], max_ratio: float = np.inf
) -> tuple[np.ndarray, tuple[float, float]]:
    """Resize to the largest size within (w, h) that keeps the aspect ratio, in whole pixels.

    Args:
        image: (h, w) or (h, w, c).
        size: (w, h).
        max_ratio: The image is not enlarged beyond this factor.

    Returns:
        The image, and the exact factors (x, y) after rounding.
    """
    height, width = image.shape[:2]
    ratio = min(size[0] / width, size[1] / height, max_ratio)
    # A very long image must not shrink to nothing.
    inner = (max(round(width * ratio), 1), max(round(height * ratio), 1))
    if inner != (width, height):
        image = cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR)
    return image, (inner[0] / width, inner[1] / height)


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map the corners of boxes and take their upright hull.

    Args:
        boxes: (n, 4) xyxy.
        matrix: (3, 3), input to output.

    Returns:
        (n, 4) float32 xyxy, not clipped.
    """
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (n, 4, 2)
    corners = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)


def warp_objects(
    objects: Objects, matrix: np.ndarray, size: tuple[int, int]
) -> tuple[Objects, np.ndarray]:
    """Warp boxes and masks; each mask is touched only where its object can be.

    Args:
        objects: The objects of the input image.
        matrix: (3, 3), input to output.
        size: (W, H) of the output.

    Returns:
        The objects in the output (boxes clipped, and tight around the masks where there are
        masks), and the fraction of each one's area that is inside the output, (n,) in [0, 1].
    """
    hulls = warp_boxes(objects.boxes, matrix)
    boxes = clip_boxes(hulls, size)
    visible = box_areas(boxes) / np.maximum(box_areas(hulls), 1e-6)
    if objects.masks is None:
        return Objects(boxes, None), visible
    masks = np.zeros((len(boxes), size[1], size[0]), dtype=np.uint8)
    extents = mask_extents(objects.masks)
    regions = clip_boxes(warp_boxes(extents, matrix), size)
    starts, ends = np.floor(regions[:, :2]).astype(int), np.ceil(regions[:, 2:]).astype(int)
    growth = abs(np.linalg.det(matrix[:2, :2]))
    for i, (x1, y1, x2, y2) in enumerate(extents):
        if x2 == x1:  # An annotation without mask pixels goes by its box.
            continue
        part = objects.masks[i, y1:y2, x1:x2]
        (left, top), (right, bottom) = starts[i], ends[i]
        visible[i] = 0
        if right > left and bottom > top:
            local = translation(-left, -top) @ matrix @ translation(x1, y1)
            warped = warp_image(part, local, (right - left, bottom - top), 0, cv2.INTER_NEAREST)
            masks[i, top:bottom, left:right] = warped
            visible[i] = min(cv2.countNonZero(warped) / (growth * cv2.countNonZero(part)), 1.0)
            x, y, width, height = cv2.boundingRect(warped)
            if width:
                boxes[i] = (left + x, top + y, left + x + width, top + y + height)
    return Objects(boxes, masks), visible
