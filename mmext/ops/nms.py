"""Non-maximum suppression: mmcv's `nms`, `softnms` and `nms_match`.

The suppression is sequential by nature and works on a few thousand numbers, so it runs in numpy on
the CPU whatever the device of the boxes; results return to that device. The arithmetic is that of
the compiled CPU ops, operation by operation in the same precision, so that a pair at the very
threshold falls on the same side.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmext.ops.precision import widen

Array = NDArray[np.floating]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Boxes of highest score that are settled among themselves before they suppress the rest.
_LEADERS = 128
# Pairs of boxes at a time: three float32 buffers of this size stay in the second-level cache.
_PAIRS = 1 << 15
# Boxes that a separate stretch of the image should hold; smaller stretches share a pass.
_STRETCH = 128


class _Corners(NamedTuple):
    """Boxes as columns: each (N,)."""

    x1: Array
    y1: Array
    x2: Array
    y2: Array
    area: Array

    def take(self, index: slice | Index | Flags | tuple[slice, None]) -> '_Corners':
        return _Corners(*(column[index] for column in self))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy suppression: a box goes if its IoU with a higher kept box exceeds the threshold.

    Boxes of equal score are taken in the order of the input. A box without area is never suppressed
    by another one without area, since their IoU is nan.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        iou_threshold: boxes with an IoU above it suppress each other.
        offset: 1 counts pixels (width = x2 - x1 + 1), 0 measures lengths.

    Returns:
        (K,) int64 indices of the kept boxes, by falling score, on the device of the boxes.
    """
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.long, device=boxes.device)
    order = _to_cpu(scores).sort(stable=True, descending=True).indices.numpy()
    corners = _corners(boxes, offset).take(order)
    kept = np.zeros(len(order), dtype=bool)
    for members in _separate_stretches(corners, iou_threshold, offset):
        kept[members] = _suppress(corners.take(members), iou_threshold, offset)
    return torch.from_numpy(order[kept]).to(boxes.device)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Suppression that lowers scores instead of removing boxes (https://arxiv.org/abs/1704.04503).

    A box leaves when a higher box lowers its score below `min_score`. The order among equal scores
    is the compiled op's, which swaps the best box to the front and fills the place of a box that
    leaves with the last one.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        dets: filled; (N, 5), of which the first K rows receive box and lowered score.
        iou_threshold: overlap from which methods 0 and 1 act.
        sigma: width of the Gaussian of method 2.
        min_score: scores below it leave.
        method: 0 sets the score to 0, 1 multiplies it by 1 - IoU, 2 by exp(-IoU^2 / sigma).
        offset: 1 counts pixels (width = x2 - x1 + 1), 0 measures lengths.

    Returns:
        (K,) int64 indices into the input, in the order of the rows of `dets`.
    """
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.long, device=boxes.device)
    corners = _corners(boxes, offset)
    # One column a box (corners, area, score), so that boxes move as a whole.
    table = np.stack([*corners, _to_cpu(scores).numpy()]).astype(corners.x1.dtype)
    index: Index = np.arange(table.shape[1])
    kept: list[Array] = []
    kept_index: list[int] = []
    while index.size:
        best = int(table[5].argmax())
        kept.append(table[:, best].copy())
        kept_index.append(int(index[best]))
        table[:, best], index[best] = table[:, 0], index[0]
        table, index = table[:, 1:], index[1:]
        iou = _pair_iou(_Corners(*kept[-1][:5, None]), _Corners(*table[:5]), offset)
        table[5] *= _decay(iou, iou_threshold, sigma, method)
        leaves = table[5] < min_score
        if leaves.any():
            order = _fill_gaps(~leaves)
            table, index = table[:, order], index[order]
    dets[: len(kept)] = torch.from_numpy(np.stack(kept)[:, [0, 1, 2, 3, 5]]).to(dets)
    return torch.tensor(kept_index, device=boxes.device)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Suppression that tells which boxes each kept box has suppressed.

    Unlike in `nms`, a box goes at an IoU equal to the threshold.

    Args:
        dets: (N, 5) xyxy and score.
        iou_threshold: boxes with at least this IoU suppress each other.

    Returns:
        For each kept box, by falling score: its index and those of the boxes it suppressed.
    """
    order: Index = _to_cpu(dets[:, 4]).sort(stable=True, descending=True).indices.numpy()
    corners = _corners(dets[:, :4], offset=0).take(order)
    groups = []
    while order.size:
        iou = _pair_iou(corners.take(slice(1)), corners.take(slice(1, None)), offset=0)
        matched = iou >= iou_threshold
        groups.append([int(order[0]), *order[1:][matched].tolist()])
        order, corners = order[1:][~matched], corners.take(slice(1, None)).take(~matched)
    return groups


def _to_cpu(tensor: Tensor) -> Tensor:
    return widen(tensor.detach()).cpu()


def _corners(boxes: Tensor, offset: int) -> _Corners:
    x1, y1, x2, y2 = (np.ascontiguousarray(column) for column in _to_cpu(boxes).numpy().T)
    return _Corners(x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset))


def _separate_stretches(corners: _Corners, iou_threshold: float, offset: int) -> list[Index]:
    """Split the boxes where a vertical line meets none of them: both sides are independent.

    `batched_nms` moves each class to a place of its own, so this is what makes many classes cheap.

    Args:
        corners: the boxes by falling score.
        iou_threshold: a negative one suppresses even boxes that do not touch; then nothing is
            split.
        offset: as in `nms`.

    Returns:
        Index arrays, each rising, that together hold every box once.
    """
    num_boxes = len(corners.x1)
    if num_boxes <= _STRETCH or iou_threshold < 0:
        return [np.arange(num_boxes)]
    by_left = corners.x1.argsort(kind='stable')
    reach = np.maximum.accumulate(corners.x2[by_left])
    position = np.arange(num_boxes)
    is_start = np.zeros(num_boxes, dtype=bool)
    is_start[1:] = corners.x1[by_left[1:]] - reach[:-1] >= offset
    start = np.maximum.accumulate(np.where(is_start, position, 0))
    stretch = np.empty(num_boxes, dtype=np.int64)
    stretch[by_left] = start // _STRETCH
    return [np.flatnonzero(stretch == name) for name in np.unique(stretch)]


def _suppress(corners: _Corners, iou_threshold: float, offset: int) -> Flags:
    """Greedy suppression of boxes sorted by falling score; returns (N,) bool, True where kept."""
    kept = np.zeros(len(corners.x1), dtype=bool)
    alive: Index = np.arange(len(kept))
    while alive.size:
        leaders = corners.take(alive[:_LEADERS])
        settled = _settle(_pair_iou_above(leaders, leaders, iou_threshold, offset))
        kept[alive[:_LEADERS][settled]] = True
        leaders, alive = leaders.take(settled), alive[_LEADERS:]
        # Blocks of the rest, as wide as keeps the table of pairs within the cache.
        width = max(1, _PAIRS // len(leaders.x1))
        blocks = [alive[begin : begin + width] for begin in range(0, len(alive), width)]
        alive = np.concatenate(
            [
                block[~_pair_iou_above(leaders, corners.take(block), iou_threshold, offset).any(0)]
                for block in blocks
            ]
            or [alive]
        )
    return kept


def _settle(overlapping: Flags) -> Flags:
    """Greedy suppression by a table of pairs, (N, N): does i suppress j, if i is kept?

    Only the pairs i < j count. A box is kept if no kept box before it overlaps. Repeating that
    sentence for all boxes at once settles at least one more box each time, and as many rounds are
    needed as the longest chain of boxes is long: a few.
    """
    overlapping = np.triu(overlapping, 1)
    kept: Flags = np.ones(len(overlapping), dtype=bool)
    while True:
        updated: Flags = np.logical_not(overlapping[kept].any(0))
        if np.array_equal(updated, kept):
            return kept
        kept = updated


def _pair_iou_above(first: _Corners, second: _Corners, iou_threshold: float, offset: int) -> Flags:
    """(N, M) bool: whether the IoU of a box of `first` (N) with one of `second` (M) is above."""
    return _pair_iou(first.take((slice(None), None)), second, offset) > iou_threshold


def _pair_iou(first: _Corners, second: _Corners, offset: int) -> Array:
    """IoU of boxes that broadcast against each other; nan where two boxes have no area."""
    overlap = np.minimum(first.x2, second.x2)
    overlap -= np.maximum(first.x1, second.x1)
    height = np.minimum(first.y2, second.y2)
    height -= np.maximum(first.y1, second.y1)
    if offset:
        overlap += offset
        height += offset
    np.maximum(overlap, 0, out=overlap)
    overlap *= np.maximum(height, 0, out=height)
    union = np.add(first.area, second.area, out=height)
    union -= overlap
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.divide(overlap, union, out=overlap)


def _decay(iou: Array, iou_threshold: float, sigma: float, method: int) -> Array:
    """Factor by which each score falls, given its IoU with a kept box: (N,)."""
    if method == 2:
        return np.exp(-(iou * iou) / iou.dtype.type(sigma))
    reduced = np.zeros_like(iou) if method == 0 else 1 - iou
    return np.where(iou >= iou_threshold, reduced, iou.dtype.type(1))


def _fill_gaps(stays: Flags) -> Index:
    """Order of the staying entries once each gap is filled with the last entry that is left."""
    order = np.arange(len(stays))
    num_staying = int(stays.sum())
    gaps = np.flatnonzero(~stays[:num_staying])
    order[gaps] = num_staying + np.flatnonzero(stays[num_staying:])[::-1]
    return order[:num_staying]
