"""Samples whose objects are ellipses, so that a transformed mask can be computed from a formula.

An ellipse is evaluated at the centres of the output's pixels, mapped back to the input by
arithmetic of the test's own: nothing of the code under test is in the expected mask.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks

Map = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Ellipse(NamedTuple):
    """Centre, half axes, angle in radians; pixels."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0

    def contains(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u = (x - self.x) * cos + (y - self.y) * sin
        v = (y - self.y) * cos - (x - self.x) * sin
        return (u / self.a) ** 2 + (v / self.b) ** 2 <= 1

    def outline(self) -> np.ndarray:
        theta = np.linspace(0, 2 * np.pi, 200, endpoint=False)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u, v = self.a * np.cos(theta), self.b * np.sin(theta)
        return np.stack([self.x + u * cos - v * sin, self.y + u * sin + v * cos], axis=1)


ELLIPSES = (Ellipse(90, 70, 40, 22, 0.4), Ellipse(190, 120, 25, 35, -0.2))


def draw(ellipse: Ellipse, height: int, width: int, to_input: Map | None = None) -> np.ndarray:
    """The mask (height, width) of an ellipse; the map leads from output to input coordinates."""
    y, x = np.mgrid[:height, :width] + 0.5
    if to_input is not None:
        x, y = to_input(x, y)
    return ellipse.contains(x, y).astype(np.uint8)


def extent(mask: np.ndarray) -> list[int]:
    """The box xyxy of a mask, by its rows and columns."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def make_sample(
    height: int = 200,
    width: int = 260,
    ellipses: tuple[Ellipse, ...] = ELLIPSES,
    masks: str = 'bitmap',
) -> dict:
    """An mmdet sample: white ellipses on black; masks 'bitmap', 'polygon' or 'none'."""
    planes = np.array([draw(e, height, width) for e in ellipses], np.uint8)
    planes = planes.reshape(-1, height, width)
    image = np.repeat(planes.any(axis=0)[..., None], 3, axis=2).astype(np.uint8) * 255
    boxes = np.array([extent(plane) for plane in planes], np.float32).reshape(-1, 4)
    results = {
        'img': image,
        'img_shape': (height, width),
        'ori_shape': (height, width),
        'gt_bboxes': HorizontalBoxes(boxes),
        'gt_bboxes_labels': np.arange(len(ellipses), dtype=np.int64),
        'gt_ignore_flags': np.zeros(len(ellipses), dtype=bool),
    }
    if masks == 'bitmap':
        results['gt_masks'] = BitmapMasks(planes, height, width)
    elif masks == 'polygon':
        outlines = [[e.outline().reshape(-1)] for e in ellipses]
        results['gt_masks'] = PolygonMasks(outlines, height, width)
    return results


def iou(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a > 0, b > 0
    return float((a & b).sum() / (a | b).sum())


def assert_in_step(results: dict, expected: list[np.ndarray], least_iou: float = 0.98) -> None:
    """Image, masks, boxes and sizes of a sample agree with the expected masks."""
    image, masks = results['img'], results['gt_masks']
    assert results['img_shape'] == image.shape[:2] == (masks.height, masks.width)
    assert masks.masks.dtype == np.uint8
    assert len(masks) == len(results['gt_bboxes']) == len(expected)
    assert len(results['gt_bboxes_labels']) == len(results['gt_ignore_flags']) == len(expected)
    for mask, box, wanted in zip(
        masks.masks, results['gt_bboxes'].tensor.tolist(), expected, strict=True
    ):
        assert iou(mask, wanted) > least_iou
        assert box == extent(mask)
    # The image is white where there is an object: it has moved with the masks, not half a pixel
    # beside.
    white = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) > 127
    assert iou(white, np.any(expected, axis=0)) > least_iou
