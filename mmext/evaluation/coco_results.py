"""Predictions as COCO results: what `pycocotools.coco.COCO.loadRes` reads."""

from collections.abc import Sequence

import pycocotools.mask as coco_mask
from mmengine.structures import InstanceData


def coco_results(
    instances: InstanceData, image_id: int, file_name: str, classes: Sequence[str]
) -> list[dict]:
    """The objects of one image as entries of a COCO result file.

    Args:
        instances: `bboxes` (N, 4) xyxy, `scores` (N,), `labels` (N,), and maybe `masks`, N run-length dicts.
        image_id: of the image.
        file_name: of the image; COCO's tools do not read it, people do.
        classes: names by label; empty where nobody knows them.

    Returns:
        N dicts: `image_id`, `file_name`, `category_id` (label + 1), `category_name`, `bbox` (x, y, w, h),
        `score` and, where there are masks, `segmentation` (compressed run lengths as text) and `area`.
    """
    masks = instances.get('masks')
    results = []
    for index in range(len(instances)):
        x1, y1, x2, y2 = instances.bboxes[index].tolist()
        label = int(instances.labels[index])
        entry = dict(
            image_id=image_id,
            file_name=file_name,
            category_id=label + 1,
            category_name=class_name(classes, label),
            bbox=[round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            score=round(float(instances.scores[index]), 6),
        )
        if masks is not None:
            code = masks[index]
            entry['segmentation'] = dict(size=list(code['size']), counts=code['counts'].decode())
            entry['area'] = int(coco_mask.area(code))
        results.append(entry)
    return results


def coco_images(
    images: Sequence[dict], results: Sequence[dict], classes: Sequence[str]
) -> dict[str, list]:
    """The COCO file that results refer to: all images, also those without objects, and no annotations.

    Args:
        images: dicts with `id`, `file_name`, `height`, `width`.
        results: of `coco_results`.
        classes: names by label; empty: the categories are those that were found.
    """
    found = {entry['category_id']: entry['category_name'] for entry in results}
    known = dict(enumerate(classes, start=1)) or dict(sorted(found.items()))
    categories = [dict(id=index, name=name) for index, name in known.items()]
    return dict(images=list(images), annotations=[], categories=categories)


def class_name(classes: Sequence[str], label: int) -> str:
    """The name of a label, 'class 3' where there are no names."""
    return classes[label] if classes else f'class {label}'
