"""The training objective of `Segment` on plain tensors: assign, then score classes, boxes and masks.

Shape letters: B images, A priors over all levels, C classes, R bins of a side's distance distribution,
K mask prototypes, N positive priors, M ground truths of the batch one after another.
"""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmext.models.yolo.assigner import Assignment, BatchTALAssigner
from mmext.models.yolo.mask_losses import MaskLoss, MaskPositives
from mmext.models.yolo.outputs import FlatOutputs, decode_boxes
from mmext.models.yolo.targets import best_positives, pad_truth


class GroundTruth(NamedTuple):
    """Ground truth of a batch.

    Attributes:
        labels: per image (g,) int64 in [0, C).
        bboxes: per image (g, 4) xyxy in pixels of the network input.
        masks: (M, H / mask_stride, W / mask_stride) uint8 in {0, 1}.
    """

    labels: list[Tensor]
    bboxes: list[Tensor]
    masks: Tensor


class _Positives(NamedTuple):
    """Indices of the positive priors, each (N,), sorted by image, and their soft targets."""

    image: Tensor
    prior: Tensor
    gt: Tensor
    quality: Tensor

    def take(self, chosen: Tensor) -> '_Positives':
        return _Positives(*(part[chosen] for part in self))


class SegmentCriterion(nn.Module):
    """Losses of a batch, each divided by what makes it independent of the batch's size.

    Class, box and distance terms are divided by the sum of the soft targets of this rank's batch (at least 1);
    the mask term is the mean over positives.

    Args:
        loss_cls: class logits against soft targets.
        loss_bbox: boxes of the positives.
        loss_dfl: distance distributions of the positives.
        loss_mask: masks of the positives.
        assigner: gives priors their ground truth; None for a head that only predicts.
        reg_max: R.
    """

    def __init__(
        self,
        *,
        loss_cls: nn.Module,
        loss_bbox: nn.Module,
        loss_dfl: nn.Module,
        loss_mask: MaskLoss,
        assigner: BatchTALAssigner | None,
        reg_max: int,
    ) -> None:
        super().__init__()
        self.loss_cls = loss_cls
        self.loss_bbox = loss_bbox
        self.loss_dfl = loss_dfl
        self.loss_mask: MaskLoss = loss_mask
        self.assigner = assigner
        self.reg_max = reg_max

    def forward(
        self, outputs: FlatOutputs, priors: Tensor, truth: GroundTruth
    ) -> dict[str, Tensor]:
        """Compute the four losses.

        Args:
            outputs: raw outputs.
            priors: (A, 4): centre x, centre y, stride x, stride y in pixels of the network input.
            truth: ground truth.

        Returns:
            `loss_cls`, `loss_bbox`, `loss_dfl`, `loss_mask`: scalars.

        Raises:
            ValueError: there is no assigner.
        """
        if self.assigner is None:
            raise ValueError(
                'Segment: got no train_cfg, expected one to compute losses. Set '
                "train_cfg=dict(assigner=dict(type='mmext.BatchTALAssigner', topk=10))."
            )
        padded = pad_truth(truth.labels, truth.bboxes)
        bboxes = decode_boxes(outputs.box_dists, priors, self.reg_max)
        assignment = self.assigner.assign(
            outputs.cls_logits.detach().sigmoid(),
            bboxes.detach(),
            priors=priors[:, :2],
            truth=padded,
        )
        positives = _find_positives(assignment)
        image, prior, gt, quality = positives
        total_quality = quality.sum().clamp(min=1)

        cls_target = torch.zeros_like(outputs.cls_logits)
        cls_target[image, padded.labels[image, gt], prior] = quality
        gt_bboxes = padded.bboxes[image, gt]
        centre, stride = priors[prior, :2], priors[prior, 2:]
        distances = torch.cat(
            [(centre - gt_bboxes[:, :2]) / stride, (gt_bboxes[:, 2:] - centre) / stride], dim=1
        )
        dists = outputs.box_dists[image, :, prior].unflatten(1, (4, self.reg_max))
        weighting = dict(weight=quality, avg_factor=total_quality)
        return dict(
            loss_cls=self.loss_cls(outputs.cls_logits, cls_target, avg_factor=total_quality),
            loss_bbox=self.loss_bbox(bboxes[image, prior], gt_bboxes, **weighting),
            loss_dfl=self.loss_dfl(dists, distances, **weighting),
            loss_mask=self.loss_mask(
                outputs.prototypes, self._mask_positives(outputs.coeffs, positives, truth)
            ),
        )

    def _mask_positives(
        self, coeffs: Tensor, positives: _Positives, truth: GroundTruth
    ) -> MaskPositives:
        """The positives that enter the mask loss, their ground truths numbered through the batch."""
        gts_per_image = [len(labels) for labels in truth.labels]
        first_gt = torch.tensor([0, *accumulate(gts_per_image)], device=coeffs.device)
        positives = positives._replace(gt=first_gt[positives.image] + positives.gt)
        if self.loss_mask.max_positives is not None:
            positives = positives.take(
                best_positives(
                    positives.image, positives.gt, positives.quality, self.loss_mask.max_positives
                )
            )
        return MaskPositives(
            coeffs=coeffs[positives.image, :, positives.prior],
            gt=positives.gt,
            bboxes=torch.cat(truth.bboxes).float(),
            masks=truth.masks,
            num_per_image=positives.image.bincount(minlength=len(coeffs)).tolist(),
            gts_per_image=gts_per_image,
        )


def _find_positives(assignment: Assignment) -> _Positives:
    image, prior = (assignment.gt_index >= 0).nonzero(as_tuple=True)
    return _Positives(
        image, prior, assignment.gt_index[image, prior], assignment.quality[image, prior]
    )
