"""The training objective of `Segment` on plain tensors: assign, then score classes, boxes and masks.

Shape letters: B images, A priors over all levels, C classes, R bins of a side's distance distribution,
K mask prototypes, N positive priors, M ground truths of the batch one after another.
"""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmext.models.yolo.assigner import BatchTALAssigner
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


class Positives(NamedTuple):
    """The positive priors of a batch, sorted by image.

    Attributes:
        image: (N,) int64 in [0, B).
        prior: (N,) int64 in [0, A).
        gt: (N,) int64 in [0, M), ground truths numbered through the batch.
        quality: (N,) soft target in [0, 1].
        bboxes: (N, 4) predicted boxes xyxy in pixels of the network input, with their gradient.
    """

    image: Tensor
    prior: Tensor
    gt: Tensor
    quality: Tensor
    bboxes: Tensor

    def take(self, chosen: Tensor) -> 'Positives':
        """Those that a mask (N,) or ascending indices choose."""
        return Positives(*(part[chosen] for part in self))


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

    def with_assigner(self, assigner: BatchTALAssigner | None) -> 'SegmentCriterion':
        """The same losses for another assignment."""
        return SegmentCriterion(
            loss_cls=self.loss_cls,
            loss_bbox=self.loss_bbox,
            loss_dfl=self.loss_dfl,
            loss_mask=self.loss_mask,
            assigner=assigner,
            reg_max=self.reg_max,
        )

    def forward(
        self, outputs: FlatOutputs, priors: Tensor, truth: GroundTruth
    ) -> dict[str, Tensor]:
        """Assign ground truths to priors, then compute the four losses; see `match` and `losses`."""
        return self.losses(outputs, priors, truth, self.match(outputs, priors, truth))

    def match(self, outputs: FlatOutputs, priors: Tensor, truth: GroundTruth) -> Positives:
        """Give priors their ground truth.

        Args:
            outputs: raw outputs.
            priors: (A, 4): centre x, centre y, stride x, stride y in pixels of the network input.
            truth: ground truth.

        Raises:
            ValueError: there is no assigner.
        """
        if self.assigner is None:
            raise ValueError(
                'Segment: got no train_cfg, expected one to compute losses. Set '
                "train_cfg=dict(assigner=dict(type='mmext.BatchTALAssigner', topk=10))."
            )
        bboxes = decode_boxes(outputs.box_dists, priors, self.reg_max)
        assignment = self.assigner.assign(
            outputs.cls_logits.detach().sigmoid(),
            bboxes.detach(),
            priors=priors[:, :2],
            truth=pad_truth(truth.labels, truth.bboxes),
        )
        image, prior = (assignment.gt_index >= 0).nonzero(as_tuple=True)
        gts_per_image = [len(labels) for labels in truth.labels]
        first_gt = torch.tensor([0, *accumulate(gts_per_image)], device=image.device)
        return Positives(
            image,
            prior,
            gt=first_gt[image] + assignment.gt_index[image, prior],
            quality=assignment.quality[image, prior],
            bboxes=bboxes[image, prior],
        )

    def losses(
        self, outputs: FlatOutputs, priors: Tensor, truth: GroundTruth, positives: Positives
    ) -> dict[str, Tensor]:
        """The losses of a batch whose positives are known; arguments as in `match`.

        Returns:
            `loss_cls`, `loss_bbox`, `loss_dfl`, `loss_mask`: scalars.
        """
        image, prior, gt, quality, bboxes = positives
        total_quality = quality.sum().clamp(min=1)
        cls_target = torch.zeros_like(outputs.cls_logits)
        cls_target[image, torch.cat(truth.labels)[gt], prior] = quality
        gt_bboxes = torch.cat(truth.bboxes).float()[gt]
        centre, stride = priors[prior, :2], priors[prior, 2:]
        distances = torch.cat(
            [(centre - gt_bboxes[:, :2]) / stride, (gt_bboxes[:, 2:] - centre) / stride], dim=1
        )
        dists = outputs.box_dists[image, :, prior].unflatten(1, (4, self.reg_max))
        weighting = dict(weight=quality, avg_factor=total_quality)
        return dict(
            loss_cls=self.loss_cls(outputs.cls_logits, cls_target, avg_factor=total_quality),
            loss_bbox=self.loss_bbox(bboxes, gt_bboxes, **weighting),
            loss_dfl=self.loss_dfl(dists, distances, **weighting),
            loss_mask=self.loss_mask(
                outputs.prototypes,
                mask_positives(outputs.coeffs, self._cap(positives), truth),
            ),
        )

    def _cap(self, positives: Positives) -> Positives:
        """The positives that enter the mask loss."""
        image, _, gt, quality, _ = positives
        limit = self.loss_mask.max_positives
        return (
            positives
            if limit is None
            else positives.take(best_positives(image, gt, quality, limit))
        )


def mask_positives(coeffs: Tensor, positives: Positives, truth: GroundTruth) -> MaskPositives:
    """Positives as mask losses want them, from all mask coefficients (B, K, A)."""
    return MaskPositives(
        coeffs=coeffs[positives.image, :, positives.prior],
        gt=positives.gt,
        bboxes=torch.cat(truth.bboxes).float(),
        masks=truth.masks,
        num_per_image=positives.image.bincount(minlength=len(coeffs)).tolist(),
        gts_per_image=[len(labels) for labels in truth.labels],
    )
