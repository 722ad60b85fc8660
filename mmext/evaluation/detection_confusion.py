"""Which classes a detector takes for which: a confusion matrix with a row and a column for the background."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as coco_mask
from numpy.typing import NDArray

from mmext.structures.coco import is_box, read_coco_lists

# As a false alarm or a miss is commonly understood.
MIN_IOU = 0.5


class ObjectTruth(NamedTuple):
    """The objects of an image, in its own pixels.

    Attributes:
        boxes: (n, 4) float64 xyxy.
        labels: (n,) int64 in [0, K).
        crowd: (n,) bool, boxes of many objects, which are neither to be found nor to be counted.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


class FoundObjects(NamedTuple):
    """The detections of an image, in its own pixels.

    Attributes:
        boxes: (k, 4) xyxy.
        scores: (k,).
        labels: (k,) in [0, K).
    """

    boxes: NDArray
    scores: NDArray
    labels: NDArray


def read_truth(
    ann_file: str, classes: Sequence[str], backend_args: dict | None = None
) -> dict[int, ObjectTruth]:
    """The objects of these classes in a COCO annotation file, by image id; images without any are there, too.

    Args:
        ann_file: the file.
        classes: names in the order of the labels; objects of others are left out.
        backend_args: of mmengine's file backend; None for local files.

    Raises:
        ValueError: the file is missing or damaged, or has no image, or no object of these classes.
    """
    content = read_coco_lists(
        ann_file, backend_args, annotation_keys=('image_id', 'category_id', 'bbox')
    )
    names = {own['id']: own['name'] for own in content['categories']}
    rows: dict[int, list[tuple]] = {own['id']: [] for own in content['images']}
    for own in content['annotations']:
        name = names.get(own['category_id'])
        if name in classes and own['image_id'] in rows:
            if not is_box(own['bbox']):
                raise ValueError(
                    f'{ann_file}: got bbox {own["bbox"]} of the object {own.get("id")} of image {own["image_id"]}, expected '
                    '[x, y, width, height], four finite numbers. Mend the annotation.'
                )
            x, y, width, height = own['bbox']
            box, crowd = (x, y, x + width, y + height), bool(own.get('iscrowd', 0))
            rows[own['image_id']].append((box, classes.index(name), crowd))
    if not any(rows.values()):
        raise ValueError(
            f'{ann_file}: got {len(rows)} images without an object of {", ".join(classes)}, expected some: there is '
            'nothing to score. Give data with objects, or more images.'
        )
    return {image: _objects(own) for image, own in rows.items()}


def confusion_matrix(
    images: Iterable[tuple[FoundObjects, ObjectTruth]],
    num_classes: int,
    *,
    score_thr: float,
    min_iou: float = MIN_IOU,
) -> NDArray[np.int64]:
    """Count which objects were found as what.

    Detections of at least `score_thr`, the highest first, take the object that they overlap most, of those that none has
    taken before and whose IoU is `min_iou` or more, whatever the classes say. Of detections with the same box, one query
    found with several classes, only the highest counts. What lies on a crowd is not counted.

    Args:
        images: detections and truth of each.
        num_classes: K.
        score_thr: lowest score.
        min_iou: lowest IoU.

    Returns:
        (K + 1, K + 1): row by the class of the object, column by the class it was found as. The last row has
        detections without an object, the last column objects without a detection, the corner is 0.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for found, truth in images:
        boxes, labels, _ = _best_of_each_box(found, score_thr)
        free = ~truth.crowd
        for overlaps, label in zip(_overlaps(boxes, truth), labels, strict=True):
            candidates = np.where(free, overlaps, -1.0)
            if len(free) and candidates.max() >= min_iou:
                best = candidates.argmax()
                free[best] = False
                matrix[truth.labels[best], label] += 1
            elif not (overlaps[truth.crowd] >= min_iou).any():
                matrix[num_classes, label] += 1
        matrix[:, num_classes] += np.bincount(truth.labels[free], minlength=num_classes + 1)
    return matrix


def count_found(images: Iterable[FoundObjects], score_thr: float) -> int:
    """How many detections `confusion_matrix` looks at."""
    return sum(len(_best_of_each_box(found, score_thr)[0]) for found in images)


def threshold_of_count(images: Sequence[FoundObjects], count: int) -> float:
    """The score that about so many detections reach, as `count_found` counts them.

    Scores of two detectors need not mean the same; their surest detections, equally many, can be compared.

    Args:
        images: detections of each.
        count: at least 1; where there are fewer, all are taken.
    """
    scores = np.concatenate([_best_of_each_box(found, -np.inf)[2] for found in images])
    return float(np.sort(scores)[::-1][:count][-1]) if len(scores) else 0.0


def objects_and_queries(
    boxes: NDArray, truth: ObjectTruth, *, min_iou: float = MIN_IOU
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which query lies best on each object.

    Args:
        boxes: (Q, 4) xyxy of the queries.
        truth: of the image.
        min_iou: lowest IoU; objects without such a query are left out, and so are crowds.

    Returns:
        Indices of objects and of queries, equally many.
    """
    overlaps = _overlaps(np.asarray(boxes, dtype=np.float64), truth)
    if not overlaps.size:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    kept = np.flatnonzero((overlaps.max(axis=0) >= min_iou) & ~truth.crowd)
    return kept, overlaps[:, kept].argmax(axis=0)


def _objects(rows: Sequence[tuple]) -> ObjectTruth:
    boxes, labels, crowd = zip(*rows, strict=True) if rows else ((), (), ())
    return ObjectTruth(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(crowd, dtype=bool),
    )


def _best_of_each_box(found: FoundObjects, score_thr: float) -> tuple[NDArray, NDArray, NDArray]:
    """Boxes, labels and scores, the highest score first, of each box once."""
    order = np.argsort(-found.scores, kind='stable')
    order = order[found.scores[order] >= score_thr]
    boxes = found.boxes[order].astype(np.float64).reshape(-1, 4)
    _, first = np.unique(boxes, axis=0, return_index=True)
    kept = order[np.sort(first)]
    return (
        found.boxes[kept].astype(np.float64).reshape(-1, 4),
        found.labels[kept],
        found.scores[kept],
    )


def _overlaps(boxes: NDArray[np.float64], truth: ObjectTruth) -> NDArray[np.float64]:
    """(k, n) IoU as COCO has it: with a crowd, the share of the detection that lies on it."""
    if not len(boxes) or not len(truth.boxes):
        return np.zeros((len(boxes), len(truth.boxes)))
    found, own = (
        np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1) for b in (boxes, truth.boxes)
    )
    return coco_mask.iou(found, own, truth.crowd.astype(np.uint8))
