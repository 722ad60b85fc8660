"""Detection without suppression: a second set of branches that learns to find each object once.

Source: YOLOv10, consistent dual assignments, https://arxiv.org/abs/2405.14458, section 3.1. The branches of the head,
with several positive priors per object, teach backbone and neck; the second set learns from one positive per object on
features that it does not change, and predicts alone.

Shape letters: as in `outputs.py`.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from mmext.models.yolo.assigner import BatchTALAssigner
from mmext.models.yolo.criterion import GroundTruth, SegmentCriterion
from mmext.models.yolo.level_branches import LevelBranches, LevelOutputs, run_branches
from mmext.models.yolo.one_to_one_assigner import OneToOneAssigner
from mmext.models.yolo.outputs import SegmentOutputs, flatten_outputs


class OneToOne(nn.Module):
    """The second set of branches and its losses. Nothing else gets a gradient from them, the prototypes neither.

    Args:
        branches: those of the head; the second set starts as their copy.
        criterion: that of the head; the losses are the same, the assigner is `OneToOneAssigner` with its settings.

    Raises:
        ValueError: the assigner is none of `BatchTALAssigner`.
    """

    def __init__(self, branches: LevelBranches, criterion: SegmentCriterion) -> None:
        super().__init__()
        self.reg_branches = copy.deepcopy(branches.reg_branches)
        self.cls_branches = copy.deepcopy(branches.cls_branches)
        self.coeff_branches = copy.deepcopy(branches.coeff_branches)
        self.criterion = criterion.with_assigner(_one_to_one(criterion.assigner))

    def forward(self, features: Sequence[Tensor]) -> LevelOutputs:
        """Class scores, box distances and mask coefficients of each level; see `SegmentOutputs`."""
        return run_branches(self, [level.detach() for level in features])

    def losses(
        self, outputs: SegmentOutputs, priors: Tensor, truth: GroundTruth
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            outputs: raw outputs of training, those of these branches last.
            priors: (A, 4) of these branches, see `SegmentCriterion.match`.
            truth: ground truth.

        Returns:
            `loss_o2o_cls`, `loss_o2o_bbox`, `loss_o2o_dfl`, `loss_o2o_mask`: scalars.
        """
        own = last_levels(outputs, len(self.cls_branches))
        own = own._replace(prototypes=own.prototypes.detach())
        losses = self.criterion(flatten_outputs(own), priors, truth)
        return {name.replace('loss_', 'loss_o2o_', 1): loss for name, loss in losses.items()}


def _one_to_one(assigner: object) -> OneToOneAssigner | None:
    if assigner is None:
        return None
    if not isinstance(assigner, BatchTALAssigner):
        raise ValueError(
            f'Segment: got the assigner {type(assigner).__name__} with nms_free=True, expected mmext.BatchTALAssigner, '
            'whose settings the one-to-one assignment shares. Set it in train_cfg, or nms_free=False.'
        )
    return OneToOneAssigner.like(assigner)


def join_levels(one_to_many: LevelOutputs, one_to_one: LevelOutputs) -> LevelOutputs:
    """Outputs of a training step: the levels of the one-to-many branches, then those of the one-to-one branches."""
    scores, dists, coeffs = (a + b for a, b in zip(one_to_many, one_to_one, strict=True))
    return scores, dists, coeffs


def first_levels(outputs: SegmentOutputs, num_levels: int) -> SegmentOutputs:
    """Outputs of the one-to-many branches.

    Raises:
        ValueError: there are none.
    """
    if len(outputs.cls_scores) == num_levels:
        raise ValueError(
            'Segment: got outputs of eval mode for the losses, which with nms_free=True are those of the one-to-one '
            'branches alone, expected those of training. Call train() before.'
        )
    return _take_levels(outputs, slice(num_levels))


def last_levels(outputs: SegmentOutputs, num_levels: int) -> SegmentOutputs:
    """Outputs of the one-to-one branches, or of all there are."""
    return _take_levels(outputs, slice(-num_levels, None))


def _take_levels(outputs: SegmentOutputs, levels: slice) -> SegmentOutputs:
    scores, dists, coeffs = (part[levels] for part in outputs[:3])
    return SegmentOutputs(scores, dists, coeffs, outputs.prototypes)
