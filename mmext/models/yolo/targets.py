"""Ground truth as the losses want it: padded batches of boxes, masks at the loss's stride, capped positives."""

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmext.models.yolo.assigner import PaddedTruth


def pad_truth(labels: Sequence[Tensor], bboxes: Sequence[Tensor]) -> PaddedTruth:
    """Pad the ground truths of images, (g,) and (g, 4) each, to the batch's most."""
    counts = torch.tensor([len(own) for own in labels])
    valid = torch.arange(int(counts.max()))[None] < counts[:, None]
    return PaddedTruth(
        labels=pad_sequence(list(labels), batch_first=True),
        bboxes=pad_sequence([own.float() for own in bboxes], batch_first=True),
        valid=valid.to(bboxes[0].device, non_blocking=True),
    )


def pool_batch_masks(
    masks: Sequence[BitmapMasks | PolygonMasks], input_size: tuple[int, int], stride: int
) -> Tensor:
    """Masks of a batch, one image after another, at the loss's stride.

    Args:
        masks: the masks of each image.
        input_size: (height, width) of the network input, which the masks must have.
        stride: 1 to 15.

    Returns:
        (M, H / stride, W / stride) uint8 in {0, 1} on the CPU.

    Raises:
        ValueError: masks and network input differ in size.
    """
    for own in masks:
        if (own.height, own.width) != input_size:
            raise ValueError(
                f'Segment: got masks of {(own.height, own.width)} (height, width) for a network input of '
                f'{input_size}. Set pad_mask=True in DetDataPreprocessor, and resize masks wherever images are '
                'resized.'
            )
    return torch.cat([pool_masks(own.to_ndarray(), stride) for own in masks])


def pool_masks(masks: np.ndarray, stride: int) -> Tensor:
    """Shrink binary masks: a pixel is set where at least half of its stride x stride block is.

    Sums stay in uint8, rows first: no copy of the masks is made at full size, in floats least of all.

    Args:
        masks: (N, H, W) uint8 in {0, 1}; H and W are multiples of the stride.
        stride: 1 to 15.

    Returns:
        (N, H / stride, W / stride) uint8 in {0, 1} on the CPU.
    """
    full = torch.from_numpy(np.ascontiguousarray(masks))
    if stride == 1:
        return full
    return (2 * block_sums(full, stride).int() >= stride**2).to(torch.uint8)


def block_sums(masks: Tensor, stride: int) -> Tensor:
    """Set pixels of each stride x stride block of masks (N, H, W) uint8 in {0, 1}: uint8, on their device."""
    assert 1 <= stride <= 15, 'block sums must fit in uint8'
    rows = masks[:, ::stride].clone()
    for offset in range(1, stride):
        rows += masks[:, offset::stride]
    blocks = rows[..., ::stride].clone()
    for offset in range(1, stride):
        blocks += rows[..., offset::stride]
    return blocks


def best_positives(image: Tensor, gt: Tensor, quality: Tensor, limit: int) -> Tensor:
    """Which positives to keep: the best of every ground truth, and of each image the best others up to `limit`.

    An image with more ground truths than `limit` keeps one positive of each, so more than `limit`.

    Args:
        image: (N,) int64 image of each positive, ascending.
        gt: (N,) int64 ground truth of each positive, numbered through the batch.
        quality: (N,) soft target of each positive in [0, 1]; the highest stay.
        limit: positives per image, those of its ground truths included.

    Returns:
        (N,) bool.
    """
    if len(image) == 0:
        return torch.zeros_like(image, dtype=torch.bool)
    is_best = rank_within_group(gt, quality) == 0
    return is_best | (rank_within_group(image, quality + is_best) < limit)


def draw_positives(image: Tensor, gt: Tensor, limit: int) -> Tensor:
    """Draw at most `limit` positives of each image at random: no ground truth has two before each has one.

    Args:
        image: (N,) int64 image of each positive.
        gt: (N,) int64 ground truth of each positive, numbered through the batch.
        limit: positives per image.

    Returns:
        (N,) bool.
    """
    chance = torch.rand(len(gt), device=gt.device)
    turn = rank_within_group(
        gt, chance
    )  # 0 for one positive of every ground truth, 1 for its next, ...
    return rank_within_group(image, chance - turn) < limit


def rank_within_group(group: Tensor, value: Tensor) -> Tensor:
    """Rank of each element by descending value among the elements of its group, from 0: (N,) int64."""
    order = value.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    position = torch.arange(len(group), device=group.device)
    start = torch.searchsorted(group[order].contiguous(), group[order].contiguous())
    return torch.empty_like(position).scatter_(0, order, position - start)
