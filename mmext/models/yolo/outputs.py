"""Raw outputs of the head: their names, their flattening over the levels, the decoding of boxes.

Shape letters: B images, A priors over all levels, C classes, R bins of a side's distance distribution, K mask
prototypes; h w the size of a level, H W that of the network input.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SegmentOutputs(NamedTuple):
    """Raw outputs; sequences have one entry per level, the finest first.

    Attributes:
        cls_scores: (B, C, h, w) logits.
        bbox_dists: (B, 4 R, h, w) logits of the distances left, top, right, bottom in cells.
        mask_coeffs: (B, K, h, w).
        prototypes: (B, K, H / 4, W / 4).
    """

    cls_scores: Sequence[Tensor]
    bbox_dists: Sequence[Tensor]
    mask_coeffs: Sequence[Tensor]
    prototypes: Tensor


class FlatOutputs(NamedTuple):
    """Raw outputs over all levels, level after level and row by row, in float32.

    Attributes:
        cls_logits: (B, C, A).
        box_dists: (B, 4 R, A) logits.
        coeffs: (B, K, A).
        prototypes: (B, K, H / 4, W / 4).
    """

    cls_logits: Tensor
    box_dists: Tensor
    coeffs: Tensor
    prototypes: Tensor


class PriorPredictions(NamedTuple):
    """What every prior predicts, in float32.

    Attributes:
        scores: (B, C, A) probabilities.
        bboxes: (B, A, 4) xyxy in pixels of the network input.
        coeffs: (B, K, A).
        prototypes: (B, K, H / 4, W / 4).
    """

    scores: Tensor
    bboxes: Tensor
    coeffs: Tensor
    prototypes: Tensor


def flatten_outputs(outputs: SegmentOutputs) -> FlatOutputs:
    """Join the levels; half precision becomes float32 here."""
    return FlatOutputs(
        _flatten_levels(outputs.cls_scores),
        _flatten_levels(outputs.bbox_dists),
        _flatten_levels(outputs.mask_coeffs),
        outputs.prototypes.float(),
    )


def _flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Maps (B, D, h, w) of each level to (B, D, A) float32."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).float()


def decode_boxes(distances: Tensor, priors: Tensor, num_bins: int) -> Tensor:
    """Boxes from distributions over the distances to their four sides.

    Args:
        distances: (B, 4 R, A) logits, sides left, top, right, bottom.
        priors: (A, 4): centre x, centre y, stride x, stride y, in pixels of the network input.
        num_bins: R.

    Returns:
        (B, A, 4) xyxy in pixels of the network input. No side is longer than 2 (R - 1) strides.
    """
    bins = torch.arange(num_bins, dtype=distances.dtype, device=distances.device)
    probability = distances.unflatten(1, (4, num_bins)).softmax(dim=2)
    cells = torch.einsum('bsra,r->bas', probability, bins)
    centre, stride = priors[:, :2], priors[:, 2:]
    top_left = centre - cells[..., :2] * stride
    return torch.cat([top_left, centre + cells[..., 2:] * stride], dim=-1)
