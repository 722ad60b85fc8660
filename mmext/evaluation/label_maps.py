"""What is counted of maps of classes, and the scores that follow from the counts.

Counts are whole numbers and add up: over pictures, batches and processes, in memory that does not grow. K classes:

    confusion (K, K): pixels of the true class (row) that were given the predicted class (column)
    outlines (3, K): pixels of the boundary of each class in the truth, in the prediction, and in both

The boundary of a class are its pixels with a pixel of anything else, or the edge of the picture, within `boundary_width`
rows and columns (Cheng et al., CVPR 2021, https://arxiv.org/abs/2103.16562). Boundary IoU is taken over the sums of the
data set, as mIoU is. Pixels without truth count nowhere; a boundary against them is one.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mmext.evaluation.boundary import DILATION_RATIO, boundary_width

# Stands for pixels without truth while outlines are found: no class has it.
NOWHERE = 2**16 - 1


class LabelCounts(NamedTuple):
    """Counts of one or of many pictures, int64; see the module text."""

    confusion: NDArray[np.int64]
    outlines: NDArray[np.int64]

    def __add__(self, other: 'LabelCounts') -> 'LabelCounts':  # type: ignore[override]
        return LabelCounts(self.confusion + other.confusion, self.outlines + other.outlines)


def no_counts(num_classes: int) -> LabelCounts:
    """The counts of nothing."""
    return LabelCounts(
        np.zeros((num_classes, num_classes), np.int64), np.zeros((3, num_classes), np.int64)
    )


def count_labels(
    predicted: NDArray,
    truth: NDArray,
    num_classes: int,
    *,
    ignore_index: int = 255,
    ratio: float | None = DILATION_RATIO,
) -> LabelCounts:
    """Counts of one picture.

    Args:
        predicted: (h, w) of 0 to num_classes - 1.
        truth: (h, w) of the same, or `ignore_index`.
        num_classes: K.
        ignore_index: of pixels without truth.
        ratio: width of the boundary as a share of the diagonal; None counts no outlines, which take most of the time.

    Raises:
        ValueError: two sizes, or a value that is no class.
    """
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise ValueError(
            f'got a prediction of {predicted.shape} and a truth of {truth.shape} pixels; expected the same size (h, w). '
            'LoadAnnotations must stand behind Resize in the test pipeline'
        )
    valid = truth != ignore_index
    for name, values in (('truth', truth[valid]), ('prediction', predicted[valid])):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f'got values {values.min()} to {values.max()} in the {name}; expected 0 to {num_classes - 1} for '
                f'{num_classes} classes. Check metainfo, num_classes of the head, reduce_zero_label and ignore_index '
                f'(now {ignore_index})'
            )
    rows, columns = truth[valid].astype(np.int64), predicted[valid].astype(np.int64)
    confusion = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    counts = no_counts(num_classes)
    counts.confusion[:] = confusion.reshape(num_classes, num_classes)
    if ratio is not None:
        width = boundary_width(truth.shape, ratio)
        counts.outlines[:] = _count_outlines(predicted, truth, valid, num_classes, width)
    return counts


def label_boundary(labels: NDArray[np.uint16], width: int) -> NDArray[np.bool_]:
    """The pixels of a map (h, w) that have one of another value, or the edge, within `width` rows and columns.

    For all classes at once: a pixel lies inside of its class where the least and the largest value around it are one.
    """
    height, length = labels.shape
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    boundary = cv2.erode(labels, kernel) != cv2.dilate(labels, kernel)
    inside = np.zeros_like(boundary)
    inside[width : max(height - width, 0), width : max(length - width, 0)] = True
    return np.asarray(boundary | ~inside)


def _count_outlines(
    predicted: NDArray, truth: NDArray, valid: NDArray[np.bool_], num_classes: int, width: int
) -> NDArray[np.int64]:
    """(3, K): see the module text."""
    maps = [np.where(valid, own, NOWHERE).astype(np.uint16) for own in (truth, predicted)]
    true_edge, found_edge = (label_boundary(own, width) & valid for own in maps)
    both = true_edge & found_edge & (truth == predicted)
    counted = (truth[true_edge], predicted[found_edge], truth[both])
    return np.stack([np.bincount(own.astype(np.int64), minlength=num_classes) for own in counted])


def label_scores(counts: LabelCounts) -> dict[str, NDArray[np.float64]]:
    """Scores of each class, (K,) in percent, NaN where they are 0 / 0; `aAcc` has one entry.

    Keys: IoU, Acc (recall), Dice, Precision, and BoundaryIoU, NaN where no outlines were counted.
    """
    hit = np.diag(counts.confusion).astype(float)
    true, found = counts.confusion.sum(axis=1), counts.confusion.sum(axis=0)
    in_truth, in_found, in_both = counts.outlines
    with np.errstate(divide='ignore', invalid='ignore'):
        scores = {
            'aAcc': np.array([hit.sum() / true.sum()]),
            'IoU': hit / (true + found - hit),
            'Acc': hit / true,
            'Dice': 2 * hit / (true + found),
            'Precision': hit / found,
            'BoundaryIoU': in_both / (in_truth + in_found - in_both),
        }
    return {name: 100 * values for name, values in scores.items()}
