"""The checks of the preflight, continued: the boxes of an annotation file, and those that survive loading."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmext.engine.preflight_checks import Finding, error, some, warning
from mmext.structures.coco import is_box

# What can be wrong with a box; see `box_fault`.
MALFORMED = 'are not four numbers and are dropped'
OUTSIDE = 'lie outside their image and are dropped'
FLAT = 'are narrower than one pixel and are dropped'
OVER = 'reach over the edge of their image'


class BoxLimit(NamedTuple):
    """Why the boxes of a head cannot be longer: each side lies at most `reg_max - 1` cells from the prior.

    Attributes:
        head: path of the head in the model, such as 'bbox_head'.
        reg_max: distances, 0 to reg_max - 1 cells, over which a side is distributed.
        stride: pixels of the network input per cell of its coarsest level.
    """

    head: str
    reg_max: int
    stride: int

    @property
    def pixels(self) -> int:
        """Length of the longest box, in pixels of the network input."""
        return 2 * (self.reg_max - 1) * self.stride


def check_boxes(where: str, content: Mapping[str, Any]) -> list[Finding]:
    """Boxes that loading drops, for lack of a place or a size, and boxes that reach over the edge."""
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    faulty: dict[str, list] = {MALFORMED: [], OUTSIDE: [], FLAT: [], OVER: []}
    for annotation in content['annotations']:
        if annotation['image_id'] in sizes:
            fault = box_fault(annotation.get('bbox'), *sizes[annotation['image_id']])
            if fault:
                faulty[fault].append(annotation['id'])
    findings = [
        warning(f'{where}: {len(ids)} boxes {fault}; annotation ids {some(ids)}')
        for fault, ids in faulty.items()
        if ids
    ]
    num_dropped = sum(len(faulty[fault]) for fault in (MALFORMED, OUTSIDE, FLAT))
    if 2 * num_dropped > len(content['annotations']):
        findings.append(
            error(
                f'{where}: {num_dropped} of {len(content["annotations"])} boxes lie outside their image, have '
                'no size or are not four numbers; COCO boxes are [x, y, width, height] in pixels of the image'
            )
        )
    return findings


def check_loaded_boxes(
    where: str, classes: Sequence[str], histogram: Mapping[int, int], num_images: int
) -> list[Finding]:
    """Boxes that survive loading: none at all is an error, a class without any a warning.

    Args:
        where: place in the config.
        classes: name of each label.
        histogram: label -> number of boxes.
        num_images: number of images loaded.
    """
    if not sum(histogram.values()):
        return [
            error(
                f'{where}: no box survives loading ({num_images} images); check metainfo.classes against '
                f'the annotation file, {where}.filter_cfg and the sizes of the boxes'
            )
        ]
    absent = [name for label, name in enumerate(classes) if not histogram.get(label)]
    return [warning(f'{where}: no box of the classes {some(absent)}')] if absent else []


def check_box_lengths(where: str, lengths: Sequence[float], limit: BoxLimit) -> list[Finding]:
    """Objects that no box of the head can hold.

    Args:
        where: place in the config.
        lengths: longer side of each object's box, in pixels of the network input.
        limit: the longest box of the head.
    """
    longer = [length for length in lengths if length > limit.pixels]
    if not longer:
        return []
    return [
        warning(
            f'{where}: {len(longer)} of {len(lengths)} objects that were looked at are longer than '
            f'{limit.pixels} pixels in the network input (up to {max(longer):.0f}), the longest box of '
            f'model.{limit.head} with reg_max={limit.reg_max} and stride {limit.stride}; they will be cut. Raise '
            'reg_max, add a level of twice the stride (P6), or shrink the input'
        )
    ]


def malformed_boxes(content: Mapping[str, Any]) -> list[Any]:
    """Ids of the annotations whose box is not four numbers."""
    return [a['id'] for a in content['annotations'] if not is_box(a.get('bbox'))]


def box_fault(bbox: object, width: float, height: float) -> str:
    """What is wrong with a COCO box in an image of this size: one of the four texts above, or ''."""
    if not is_box(bbox):
        return MALFORMED
    x, y, w, h = bbox
    if w < 1 or h < 1:
        return FLAT
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return OUTSIDE
    return OVER if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1 else ''
