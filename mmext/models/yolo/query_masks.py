"""Masks of queries: their place and certainty at the decoder's resolution, their pixels in the output image.

A query's mask is its embedding times the mask features, the same linear form as coefficients times prototypes, so
the same assembly makes it at the output's resolution. What is new is that no box says where to look: the mask does.

Shape letters: N queries, d embedding channels, h w the size of the mask features, H W the output's size.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from mmext.models.yolo.assembly import OutputFrame, assemble_bitmaps, assemble_rles

MAX_CHUNK_VALUES = 2**22


class MaskSummary(NamedTuple):
    """What is known of masks without making them at the output's size.

    Attributes:
        foreground: (N,) mean probability of the pixels inside each mask, in [0, 1]; 0 where there is none.
        bboxes: (N, 4) xyxy around those pixels, in pixels of the network input; zeros where there is none.
    """

    foreground: Tensor
    bboxes: Tensor


def summarise_masks(
    embeddings: Tensor, mask_features: Tensor, *, input_size: tuple[int, int], threshold: float
) -> MaskSummary:
    """Look at masks at the resolution of the mask features, a few at a time.

    Args:
        embeddings: (N, d).
        mask_features: (d, h, w), spanning the whole network input.
        input_size: (height, width) of the network input.
        threshold: probability in (0, 1) above which a pixel is inside.
    """
    height, width = mask_features.shape[1:]
    min_logit = math.log(threshold / (1 - threshold))
    foregrounds, edges = [], []
    for chunk in embeddings.split(max(1, MAX_CHUNK_VALUES // (height * width))):
        logits = torch.tensordot(chunk, mask_features, dims=1)  # n x h x w
        inside = logits > min_logit
        total = (logits.sigmoid() * inside).sum(dim=(1, 2))
        foregrounds.append(total / inside.sum(dim=(1, 2)).clamp(min=1))
        left, right = _first_and_end(inside.any(dim=1))
        top, bottom = _first_and_end(inside.any(dim=2))
        edges.append(torch.stack([left, top, right, bottom], dim=1))
    return MaskSummary(
        torch.cat(foregrounds), torch.cat(edges) * _pixel_size(mask_features, input_size)
    )


def mean_foreground(
    embeddings: Tensor,
    mask_features: Tensor,
    bboxes: Tensor,
    *,
    input_size: tuple[int, int],
    threshold: float,
) -> Tensor:
    """Mean probability of the pixels inside each mask, of those mask pixels that a box touches: (N,), 0 where none is.

    The work grows with the boxes, not with the image.

    Args:
        embeddings: see `summarise_masks`.
        mask_features: the same.
        bboxes: (N, 4) xyxy in pixels of the network input, one for each mask.
        input_size: see `summarise_masks`.
        threshold: the same.
    """
    height, width = mask_features.shape[1:]
    min_logit = math.log(threshold / (1 - threshold))
    edges = bboxes / _pixel_size(mask_features, input_size)
    edges = torch.cat([edges[:, :2].floor(), edges[:, 2:].ceil()], dim=1).clamp(min=0).long()
    foreground = embeddings.new_zeros(len(embeddings))
    for i, (x1, y1, x2, y2) in enumerate(edges.tolist()):
        near = mask_features[:, y1 : min(y2, height), x1 : min(x2, width)]
        logits = torch.tensordot(embeddings[i], near, dims=1)
        inside = logits[logits > min_logit]
        foreground[i] = inside.sigmoid().sum() / max(len(inside), 1)
    return foreground


def _first_and_end(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first flag of (N, n) bool and one more than that of the last: (N,) each, 0 where there is none."""
    position = torch.arange(1, flags.shape[1] + 1, device=flags.device)
    end = (position * flags).amax(dim=1)
    return flags.int().argmax(dim=1), end


def _pixel_size(mask_features: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Pixels of the network input per mask pixel, along x, y, x, y: (4,)."""
    height, width = mask_features.shape[1:]
    size = [input_size[1] / width, input_size[0] / height]
    return mask_features.new_tensor(size * 2)


def bound_masks(bboxes: Tensor, mask_features: Tensor, frame: OutputFrame) -> Tensor:
    """Boxes in output pixels, (N, 4) xyxy, outside which masks have no pixel, from the boxes of their `MaskSummary`."""
    # Bilinear sampling carries a mask at most half a mask pixel over the edge of its outermost pixel.
    half_pixel = _pixel_size(mask_features, frame.input_size) / 2
    wider = torch.cat([(bboxes - half_pixel)[:, :2], (bboxes + half_pixel)[:, 2:]], dim=1)
    output = frame.from_input(wider)
    # Boxes count output pixels by their index, not by their centre: one more on each side.
    return torch.cat([output[:, :2] - 1, output[:, 2:] + 1], dim=1)


class MaskFormat(NamedTuple):
    """What can be done with masks in one format.

    Attributes:
        assemble: see `assemble_bitmaps`.
        take: (masks, other masks, (n,) int64) -> n masks; indices count through both, and may repeat.
        boxes: (masks, (N, 4) boxes that hold them) -> (N, 4) xyxy around their pixels, in output pixels; zeros where
            there is none.
    """

    assemble: Callable[..., Any]
    take: Callable[[Any, Any, Tensor], Any]
    boxes: Callable[[Any, Tensor], Tensor]


def _take_bitmaps(masks: Tensor, others: Tensor, index: Tensor) -> Tensor:
    if len(others) == 0 and index.tolist() == list(range(len(masks))):
        return masks
    taken = masks.new_empty((len(index), *masks.shape[1:]))
    for target, i in zip(taken, index.tolist(), strict=True):
        target.copy_(masks[i] if i < len(masks) else others[i - len(masks)])
    return taken


def _take_rles(rles: list[dict], others: list[dict], index: Tensor) -> list[dict]:
    both = rles + others
    # Copies: who turns the bytes of one into text must not do so with another's.
    return [dict(both[i]) for i in index.tolist()]


def _bitmap_boxes(masks: Tensor, holders: Tensor) -> Tensor:
    boxes = torch.zeros(len(masks), 4)
    for mask, box, holder in zip(masks, boxes, holders.ceil().long().tolist(), strict=True):
        left, top = max(holder[0], 0), max(holder[1], 0)
        # A fraction of the image, most of the time.
        inside = mask[top : max(holder[3], 0), left : max(holder[2], 0)]
        (x,) = inside.any(dim=0).nonzero(as_tuple=True)
        (y,) = inside.any(dim=1).nonzero(as_tuple=True)
        if len(x) > 0:
            box.copy_(torch.stack([left + x[0], top + y[0], left + x[-1] + 1, top + y[-1] + 1]))
    return boxes


def _rle_boxes(rles: list[dict], holders: Tensor) -> Tensor:
    boxes = np.asarray(coco_mask.toBbox(rles), dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return torch.from_numpy(boxes)


MASK_FORMATS = {
    'bitmap': MaskFormat(assemble_bitmaps, _take_bitmaps, _bitmap_boxes),
    'rle': MaskFormat(assemble_rles, _take_rles, _rle_boxes),
}
