"""IoU and IoF (intersection over foreground) of boxes: mmcv's `bbox_overlaps`."""

import torch
from torch import Tensor

from mmext.ops.precision import widen

# Pairs of boxes in flight: half a dozen float32 temporaries of this size are 24 MB.
_PAIRS_PER_BLOCK = 1 << 20


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Write the overlap of every pair of boxes, or of the pairs in step, into `ious`.

    A pair whose denominator is zero (two boxes of zero size and no offset) is nan, as in the
    compiled op.

    Args:
        bboxes1: (M, 4) xyxy.
        bboxes2: (N, 4) xyxy; M == N if aligned.
        ious: filled; (M, N), or (M,) if aligned.
        mode: 0 divides by the union, 1 by the area of the first box.
        aligned: compare box i with box i only.
        offset: 1 counts pixels (width = x2 - x1 + 1), 0 measures lengths.
    """
    first, second = widen(bboxes1), widen(bboxes2)
    if aligned:
        ious.copy_(_overlaps(first, second, mode, offset))
        return
    rows = max(1, _PAIRS_PER_BLOCK // max(1, len(second)))
    for block, out in zip(first.split(rows), ious.split(rows), strict=True):
        out.copy_(_overlaps(block[:, None], second, mode, offset))


def _overlaps(first: Tensor, second: Tensor, mode: int, offset: int) -> Tensor:
    """Overlaps of boxes that broadcast against each other: (..., 4) and (..., 4) -> (...)."""
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (bottom_right - top_left + offset).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if mode == 0:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - intersection
    return intersection / area
