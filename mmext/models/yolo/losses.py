"""Box regression losses: complete IoU without a gate, distribution focal loss on clamped targets.

Shape letters: N positive priors, R bins of a side's distribution (`reg_max`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.registry import MODELS
from mmext.structures.boxes import complete_iou


def weighted_sum(loss: Tensor, weight: Tensor | None, avg_factor: float | Tensor | None) -> Tensor:
    """sum(loss * weight) / avg_factor; without an `avg_factor`, the number of elements (at least 1)."""
    weighted = loss if weight is None else loss * weight
    return weighted.sum() / (max(loss.numel(), 1) if avg_factor is None else avg_factor)


def distribution_focal_loss(distribution: Tensor, distance: Tensor) -> Tensor:
    """Cross entropy with the two bins around each distance, weighted by nearness (arXiv:2006.04388).

    Args:
        distribution: (..., R) logits over the distances 0 .. R - 1.
        distance: (...) in cells. Values outside [0, R - 1.01] are clamped to it: a longer side cannot be
            represented, and the bin after the last does not exist.

    Returns:
        (...).
    """
    num_bins = distribution.shape[-1]
    distance = distance.clamp(0, num_bins - 1 - 0.01)
    left = distance.floor()
    log_prob = functional.log_softmax(distribution, dim=-1)
    bins = torch.stack([left, left + 1], dim=-1).long()
    near_left, near_right = log_prob.gather(-1, bins).unbind(dim=-1)
    right_weight = distance - left
    return -(near_left * (1 - right_weight) + near_right * right_weight)


@MODELS.register_module()
class CIoULoss(nn.Module):
    """1 - complete IoU; see `mmext.structures.boxes.complete_iou` for the difference from mmdet's.

    Args:
        loss_weight: factor of the term.
    """

    def __init__(self, loss_weight: float = 7.5) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Boxes (N, 4) xyxy of one unit, weight (N,), to a scalar: weighted sum / avg_factor."""
        loss = 1 - complete_iou(pred.float(), target.float())
        return self.loss_weight * weighted_sum(loss, weight, avg_factor)


@MODELS.register_module()
class BoxDistributionLoss(nn.Module):
    """Distribution focal loss, the mean of a box's four sides (mmdet's `DistributionFocalLoss` sums them).

    Args:
        loss_weight: factor of the term.
    """

    def __init__(self, loss_weight: float = 1.5) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Logits (N, 4, R), distances (N, 4) in cells, weight (N,), to a scalar."""
        loss = distribution_focal_loss(pred.float(), target.float()).mean(dim=-1)
        return self.loss_weight * weighted_sum(loss, weight, avg_factor)
