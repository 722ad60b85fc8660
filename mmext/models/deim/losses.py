"""The losses of DEIM as pure functions without normalisers and weights, in the dtype of their inputs (give float32).

Sources: DEIM (https://arxiv.org/abs/2412.04234) for MAL, D-FINE (https://arxiv.org/abs/2410.13842) for FGL and DDF.

Shape letters: `...` any leading shape, C classes, R + 1 bins of an edge's distribution. The edges are left, top, right,
bottom. Boxes are cxcywh in [0, 1] unless said otherwise; predicted ones may have a negative width or height.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmext.structures.boxes import (
    NORMALISED_EPSILON,
    box_iou,
    cxcywh_to_xyxy,
    generalized_iou,
)


class BinTargets(NamedTuple):
    """Where the true distance of an edge lies between two neighbouring bins.

    Attributes:
        left: (..., 4) int64 in [0, R), the lower one of the two bins.
        right_weight: (..., 4) in [0, 1], share of the upper one.
    """

    left: Tensor
    right_weight: Tensor


def to_corners(boxes: Tensor) -> Tensor:
    """cxcywh (..., 4) to xyxy, where a negative width or height counts as 0: overlaps need it."""
    return cxcywh_to_xyxy(torch.cat([boxes[..., :2], boxes[..., 2:].clamp(min=0)], dim=-1))


def overlaps(boxes: Tensor, targets: Tensor) -> Tensor:
    """IoU of boxes (..., 4) with targets (..., 4), broadcast. Returns (...) in [0, 1]."""
    return box_iou(to_corners(boxes), to_corners(targets), eps=NORMALISED_EPSILON)


def matchability_aware_loss(
    logits: Tensor, labels: Tensor, ious: Tensor, *, gamma: float = 1.5
) -> Tensor:
    """MAL: cross entropy towards IoU^gamma at the class of the object, and towards 0, weighted p^gamma, elsewhere.

    Args:
        logits: (..., C).
        labels: (...) int64, the class of the matched object, C where there is none.
        ious: (...) in [0, 1] with the matched object, any value where there is none. Carries no gradient.
        gamma: at least 0.

    Returns:
        (...), the sum over the classes.
    """
    positive = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    target = positive * ious.detach()[..., None] ** gamma
    weight = (logits.detach().sigmoid() ** gamma).masked_fill(positive, 1.0)
    return functional.binary_cross_entropy_with_logits(
        logits, target, weight, reduction='none'
    ).sum(dim=-1)


def box_distance(boxes: Tensor, targets: Tensor) -> Tensor:
    """L1 distance of (..., 4) and (..., 4), both as they are. Returns (...), the sum over the four numbers."""
    return (boxes - targets).abs().sum(dim=-1)


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - generalized IoU of (..., 4) and (..., 4). Returns (...) in [0, 2]."""
    return 1 - generalized_iou(to_corners(boxes), to_corners(targets), eps=NORMALISED_EPSILON)


def locate_edges(
    targets: Tensor, refs: Tensor, *, bin_values: Tensor, reg_scale: float
) -> BinTargets:
    """The distances of the true edges from the reference boxes as positions between bins.

    An edge beyond the outermost bins is drawn to them.

    Args:
        targets: (..., 4) boxes of the objects.
        refs: (..., 4) reference boxes.
        bin_values: (R + 1,) ascending, distances in units of the reference's size / reg_scale, from the border of a
            box of the reference's size.
        reg_scale: s.
    """
    corners = to_corners(targets)
    unit = refs[..., 2:] / reg_scale + NORMALISED_EPSILON
    inner = (refs[..., :2] - corners[..., :2]) / unit  # left, top
    outer = (corners[..., 2:] - refs[..., :2]) / unit  # right, bottom
    distances = torch.cat([inner, outer], dim=-1) - reg_scale / 2
    # Found by comparison and clamped, so that a distance which is not a number yields a bin, too.
    left = torch.searchsorted(bin_values, distances.contiguous(), right=True) - 1
    left = left.clamp(0, len(bin_values) - 2)
    lower, upper = bin_values[left], bin_values[left + 1]
    return BinTargets(left, ((distances - lower) / (upper - lower)).clamp(0, 1))


def fine_grained_loss(corners: Tensor, targets: BinTargets) -> Tensor:
    """FGL: cross entropy towards the two bins around each true edge.

    Args:
        corners: (..., 4, R + 1) logits of the edges.
        targets: of shape (..., 4).

    Returns:
        (...), the sum over the edges.
    """
    log_probs = corners.log_softmax(dim=-1)
    left = log_probs.gather(-1, targets.left[..., None]).squeeze(-1)
    right = log_probs.gather(-1, targets.left[..., None] + 1).squeeze(-1)
    return -torch.lerp(left, right, targets.right_weight).sum(dim=-1)


def distillation_divergence(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of the edges' softened distributions, times temperature^2.

    Args:
        student: (..., 4, R + 1) logits.
        teacher: (..., 4, R + 1) logits. Carries no gradient.
        temperature: above 0.

    Returns:
        (...), the mean over the edges.
    """
    divergence = functional.kl_div(
        (student / temperature).log_softmax(dim=-1),
        (teacher.detach() / temperature).log_softmax(dim=-1),
        reduction='none',
        log_target=True,
    )
    return temperature**2 * divergence.sum(dim=-1).mean(dim=-1)


def decoupled_mean(values: Tensor, matched: Tensor, *, counts: tuple[int, int]) -> Tensor:
    """DDF's reduction: means over matched and over other queries, weighted by the square roots of two counts.

    The square roots keep the many unmatched queries from drowning the others. (The original scales both counts by
    8 / batch size, which cancels out.)

    Args:
        values: (..., B, Q).
        matched: (..., B, Q) bool.
        counts: what weighs the matched and the other queries; the denoising queries use those of the matching ones.

    Returns:
        (...)
    """
    weights = [math.sqrt(count) for count in counts]
    means = [
        (values * chosen).sum(dim=(-2, -1)) / chosen.sum(dim=(-2, -1)).clamp(min=1)
        for chosen in (matched, ~matched)
    ]
    return (weights[0] * means[0] + weights[1] * means[1]) / max(sum(weights), 1.0)
