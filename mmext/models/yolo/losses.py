"""Box regression losses: complete IoU without a gate, distribution focal loss on clamped targets.

Shape letters: N positive priors, R bins of a side's distribution (`reg_max`).
"""

from torch import Tensor, nn

from mmext.models.common.distribution import distribution_focal_loss
from mmext.registry import MODELS
from mmext.structures.boxes import complete_iou


def weighted_sum(loss: Tensor, weight: Tensor | None, avg_factor: float | Tensor | None) -> Tensor:
    """sum(loss * weight) / avg_factor; without an `avg_factor`, the number of elements (at least 1)."""
    weighted = loss if weight is None else loss * weight
    return weighted.sum() / (max(loss.numel(), 1) if avg_factor is None else avg_factor)


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
