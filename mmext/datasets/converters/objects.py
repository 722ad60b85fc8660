"""Objects in COCO's form from boxes, polygons and masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from mmext.datasets.converters.records import ObjectRecord
from mmext.datasets.image_files import DAMAGED
from mmext.datasets.report import Report

# Normalised coordinates have about six decimals: reaching over the edge by less than this is rounding.
EDGE_TOLERANCE = 0.1


class Components(NamedTuple):
    """The pieces of a mask.

    Attributes:
        objects: Those that are large enough.
        num_specks: Number of the others.
        specks: (H, W) bool, the pixels of the others.
    """

    objects: list[ObjectRecord]
    num_specks: int
    specks: NDArray[np.bool_]


def object_from_box(
    box: Sequence[float],
    category: str,
    size: tuple[int, int],
    report: Report,
    where: tuple[Path, str],
) -> ObjectRecord | None:
    """An object from its box.

    Args:
        box: (x1, y1, x2, y2) in pixels.
        category: Its class.
        size: (width, height) of the image, to which the box is clipped.
        report: Takes a box that is clipped or left out.
        where: File and place in it, for the report.

    Returns:
        The object; None for a box of zero size or outside the image.
    """
    x1, y1, x2, y2 = box
    file, place = where
    detail = f'{place}: {[round(value, 2) for value in box]}'
    if not (x2 > x1 and y2 > y1):  # also for values that are not numbers
        report.problem('zero-size box, object left out', file, detail)
        return None
    left, top = max(x1, 0), max(y1, 0)
    width, height = min(x2, size[0]) - left, min(y2, size[1]) - top
    detail += f' in an image of {size[0]} x {size[1]}'
    if width <= 0 or height <= 0:
        report.problem('box outside the image, object left out', file, detail)
        return None
    if max(left - x1, top - y1, x2 - left - width, y2 - top - height) > EDGE_TOLERANCE:
        report.problem('box reaches outside the image, clipped', file, detail)
    return ObjectRecord(category, (left, top, width, height), width * height)


def object_from_polygon(
    points: NDArray[np.float64],
    category: str,
    size: tuple[int, int],
    report: Report,
    where: tuple[Path, str],
) -> ObjectRecord | None:
    """An object from its outline (N, 2) in pixels, clipped to the image; arguments as in `object_from_box`."""
    corners = [*points.min(axis=0), *points.max(axis=0)]
    record = object_from_box(corners, category, size, report, where)
    if record is None:
        return None
    outline = np.clip(points, 0, size).round(3).ravel().tolist()
    rles = coco_mask.frPyObjects([outline], size[1], size[0])
    area = float(coco_mask.area(rles)[0])
    if area == 0:
        report.problem('outline without any pixel, object left out', *where)
        return None
    return ObjectRecord(category, record.bbox, area, [outline])


def object_from_mask(mask: NDArray, category: str) -> ObjectRecord:
    """An object from its binary mask (H, W) with at least one pixel; run lengths keep holes."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    segmentation = {'size': list(rle['size']), 'counts': rle['counts'].decode('ascii')}
    area = float(coco_mask.area(rle))
    return ObjectRecord(category, (x, y, width, height), area, segmentation)


def connected_objects(mask: NDArray, category: str, min_pixels: int) -> Components:
    """8-connected components of a binary mask.

    Args:
        mask: (H, W), non-zero = object.
        category: Class of every component.
        min_pixels: Components with fewer pixels are specks.
    """
    binary = np.ascontiguousarray(mask != 0, dtype=np.uint8)
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    is_speck = stats[:, cv2.CC_STAT_AREA] < min_pixels
    is_speck[0] = False  # the background
    kept = [label for label in range(1, num_labels) if not is_speck[label]]
    objects = [object_from_mask(labels == label, category) for label in kept]
    return Components(objects, int(is_speck.sum()), is_speck[labels])


def read_mask(path: Path, report: Report) -> NDArray | None:
    """The values of a mask file as stored, (H, W); palette indices of a palette image.

    Returns:
        None, with a problem, if the file is missing, unreadable, or a colour image.
    """
    if not path.is_file():
        report.problem('missing mask, image left out (draw an empty one for a normal image)', path)
        return None
    try:
        with Image.open(path) as image:
            mask = np.asarray(image)
    except DAMAGED as error:
        report.problem('unreadable mask, image left out', path, str(error))
        return None
    if mask.ndim == 3 and (mask[..., :3] == mask[..., :1]).all():
        return mask[..., 0]  # grey, saved as colour
    if mask.ndim != 2:
        report.problem('mask is a colour image, expected one channel; image left out', path)
        return None
    return mask
