"""What in a COCO annotation file cannot be scored: pycocotools dies on it, and names neither file nor annotation."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmext.structures.coco import is_box, is_polygon

MASK_METRICS = ('segm', 'boundary')
# What can be wrong with an object; see `mask_fault` for all but the first.
BAD_BOX = 'a box that is not four numbers'
NO_MASK = 'no segmentation'
BAD_POLYGON = 'a polygon that is not three or more points'
NO_COUNTS = 'a run-length mask without counts'
OTHER_SIZE = 'a run-length mask of another size than its image'
MAX_IDS = 3


def scoring_faults(content: Mapping[str, Any], metrics: Collection[str]) -> list[str]:
    """What keeps an annotation file from being scored: a text for each kind of fault, naming annotations.

    Data sets may leave such objects out, but the metric reads the file itself, and dies at the first validation.
    (A box of nan it takes, as a certain miss.)

    Args:
        content: the annotation file; images have `width` and `height`.
        metrics: 'bbox' looks at boxes, 'segm' and 'boundary' at masks, others at nothing.
    """
    ids = defaultdict(list)
    for fault, index in _faults(content, metrics):
        ids[fault].append(index)
    return [
        f'{len(own)} objects have {fault} and cannot be scored; mend or remove the annotations '
        + ', '.join(str(index) for index in own[:MAX_IDS])
        + (f', ... ({len(own)} in all)' if len(own) > MAX_IDS else '')
        for fault, own in ids.items()
    ]


def mask_fault(segmentation: object, size: tuple[int, int]) -> str:
    """Why a COCO segmentation cannot be scored: one of the texts above, or ''.

    Args:
        segmentation: list of polygons, or run-length dict.
        size: (h, w) of the image in pixels.
    """
    if not segmentation:
        return NO_MASK
    if not isinstance(segmentation, dict):
        sound = isinstance(segmentation, list) and all(is_polygon(part) for part in segmentation)
        return '' if sound else BAD_POLYGON
    if not isinstance(segmentation.get('counts'), (str, list)):
        return NO_COUNTS
    return '' if list(segmentation.get('size') or ()) == list(size) else OTHER_SIZE


def _faults(content: Mapping[str, Any], metrics: Collection[str]) -> Iterable[tuple[str, Any]]:
    """Fault and id of each object that cannot be scored; those of images that are not listed nobody looks at."""
    sizes = {image['id']: (image['height'], image['width']) for image in content.get('images', ())}
    for annotation in content.get('annotations', ()):
        if annotation['image_id'] not in sizes:
            continue
        if 'bbox' in metrics and not is_box(annotation.get('bbox')):
            yield BAD_BOX, annotation['id']
        if not set(MASK_METRICS).isdisjoint(metrics):
            fault = mask_fault(annotation.get('segmentation'), sizes[annotation['image_id']])
            if fault:
                yield fault, annotation['id']
