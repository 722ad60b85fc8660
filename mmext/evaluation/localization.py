"""How well single objects are found: overlap one by one, accuracy, and the average precision of one box an image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mmext.structures.boxes import box_area, box_iou

# The recalls at which COCO reads precision.
NUM_RECALLS = 101


class Located(NamedTuple):
    """Prediction and truth of an image.

    Attributes:
        label: predicted class.
        score: its score; ranks the predictions in the average precision.
        iou: of predicted and true box.
        true_label: true class.
    """

    label: int
    score: float
    iou: float
    true_label: int


def overlap(predicted: torch.Tensor, true: torch.Tensor) -> float:
    """IoU of two boxes (4,) xyxy; 0 where the predicted box has no area or is not finite."""
    if not torch.isfinite(predicted).all() or box_area(predicted) <= 0:
        return 0.0
    # In double precision and without an epsilon that a tiny box would notice.
    return float(box_iou(predicted.double(), true.double(), eps=1e-300))


def average_precision(scores: np.ndarray, hits: np.ndarray, num_truths: int) -> float:
    """COCO's average precision: the highest precision at each recall 0, 0.01, ... 1 and above, averaged.

    Args:
        scores: (n,) of the predictions; equal ones keep their order.
        hits: (n,) bool, whether a prediction has found its object.
        num_truths: number of objects, at least 1.

    Returns:
        In [0, 1]; 0 without predictions.
    """
    if not len(scores):
        return 0.0
    found = np.cumsum(hits[np.argsort(-scores, kind='stable')])
    recall = found / num_truths
    precision = found / np.arange(1, len(found) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, NUM_RECALLS), side='left')
    # Recalls that are not reached have precision 0.
    return float(np.append(best_from_here, 0.0)[places].mean())


def class_scores(results: Sequence[Located], label: int) -> dict[str, float]:
    """`accuracy` (share of its images that get this class), `IoU`, `AP50` and `AP75` of one class; {} without images."""
    own = [result for result in results if result.true_label == label]
    if not own:
        return {}
    found = [result for result in results if result.label == label]
    scores = np.array([result.score for result in found])
    precisions = {
        f'AP{round(100 * threshold)}': average_precision(
            scores,
            np.array([r.true_label == label and r.iou >= threshold for r in found]),
            len(own),
        )
        for threshold in (0.5, 0.75)
    }
    accuracy = float(np.mean([result.label == label for result in own]))
    return dict(accuracy=accuracy, IoU=float(np.mean([r.iou for r in own])), **precisions)


def localization_scores(results: Sequence[Located], classes: Sequence[str]) -> dict[str, float]:
    """All numbers of a set of images, each in [0, 1].

    Args:
        results: of every image, in any batches.
        classes: names by label.

    Returns:
        `accuracy` and `IoU` (means over the images, whatever the class), `AP50` and `AP75` (means over the classes that
        occur; a box counts where its class is right and its IoU reaches the threshold), and for each class that
        occurs `accuracy_<class>`, `IoU_<class>`, `AP50_<class>` and `AP75_<class>`.

    Raises:
        ValueError: there are no images.
    """
    if not results:
        raise ValueError('got no images to score, expected at least one')
    by_class = {
        name: scores
        for label, name in enumerate(classes)
        if (scores := class_scores(results, label))
    }
    overall = dict(
        accuracy=float(np.mean([result.label == result.true_label for result in results])),
        IoU=float(np.mean([result.iou for result in results])),
        AP50=float(np.mean([scores['AP50'] for scores in by_class.values()])),
        AP75=float(np.mean([scores['AP75'] for scores in by_class.values()])),
    )
    single = {f'{key}_{name}': s[key] for name, s in by_class.items() for key in s}
    return overall | single
