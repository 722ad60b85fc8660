"""`Segment`: the YOLO head that predicts boxes, classes and masks in one stage. The adapter to mmdet.

The adapter alone (this file, `truth.py`, `enhanced_head.py`) sees data samples: it turns them into tensors, and
tensors into results.

Shape letters: B images, A priors over all levels, C classes, R bins of a side's distribution, K prototypes.
"""

from collections.abc import Iterator, Sequence

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData
from torch import Tensor

from mmext.models.common.layers import ACT_CFG, NORM_CFG
from mmext.models.yolo.assembly import MaskCorrection, OutputFrame
from mmext.models.yolo.branches import check_priors
from mmext.models.yolo.criterion import GroundTruth, SegmentCriterion
from mmext.models.yolo.level_branches import LevelOutputs, build_branches, run_branches, set_priors
from mmext.models.yolo.one_to_one import OneToOne, first_levels, join_levels, last_levels
from mmext.models.yolo.outputs import (
    FlatOutputs,
    PriorPredictions,
    SegmentOutputs,
    decode_boxes,
    flatten_outputs,
)
from mmext.models.yolo.postprocess import (
    ImageDetections,
    assemble_masks,
    read_settings,
    select_detections,
)
from mmext.models.yolo.truth import BoxLengthCheck, collect_truth
from mmext.registry import MODELS, TASK_UTILS

LOSS_SCALES = ('batch', 'mean')


@MODELS.register_module()
class Segment(BaseDenseHead):
    """Anchor-free head of YOLOv8-seg and YOLO11-seg; use it in `mmdet.SingleStageDetector`.

    Args:
        num_classes: C.
        in_channels: channels of the levels, finest first.
        version: 'v8' or 'v11', the kind of class branch.
        strides: pixels of the network input per cell of each level.
        reg_max: R; no box is longer than 2 (R - 1) of the coarsest strides.
        num_prototypes: K.
        proto: config of the prototype branch; `in_channels` and `num_prototypes` are filled in.
        loss_cls: config of the loss of class logits against soft targets, both (B, C, A). Called with
            `avg_factor`, as mmdet's losses are.
        loss_bbox: config of the loss of positive boxes, xyxy in pixels of the network input.
        loss_dfl: config of the loss of the positives' distance distributions.
        loss_mask: config of `DenseMaskLoss` or `PointMaskLoss`.
        loss_scale: 'batch' multiplies all losses by the number of images over all ranks, as recipes with SGD
            at 0.01 expect; 'mean' does not, for AdamW and the like.
        class_prior: probability that class scores start at. None: 5 objects of one of C classes in an image of
            640 x 640, as published.
        box_prior: cells that the sides of boxes start at from the prior's centre, below (R - 1) / 2. None: the
            middle of the range, 7.5 for R = 16, as published; smaller starts nearer to small objects.
        nms_free: True for predictions without suppression, by a second set of branches, `OneToOne`, that learns to
            find each object once. The others only train then.
        norm_cfg: normalisation of the convolutions; None for a bias instead.
        act_cfg: activation of the convolutions; None for none.
        train_cfg: `assigner`, config of `BatchTALAssigner`. None for a head that never computes losses.
        test_cfg: see `postprocess.TestSettings`.
        init_cfg: mmengine initialisation; None is torch's default for convolutions.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        *,
        proto: dict,
        loss_cls: dict,
        loss_bbox: dict,
        loss_dfl: dict,
        loss_mask: dict,
        version: str = 'v8',
        strides: Sequence[int] = (8, 16, 32),
        reg_max: int = 16,
        num_prototypes: int = 32,
        loss_scale: str = 'batch',
        class_prior: float | None = None,
        box_prior: float | None = None,
        nms_free: bool = False,
        norm_cfg: dict | None = NORM_CFG,
        act_cfg: dict | None = ACT_CFG,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(in_channels, Sequence) or len(in_channels) != len(strides):
            raise ValueError(
                f'Segment: got in_channels={in_channels} for {len(strides)} strides; give one per level.'
            )
        if loss_scale not in LOSS_SCALES:
            raise ValueError(
                f'Segment: got loss_scale={loss_scale!r}, expected one of {LOSS_SCALES}.'
            )
        check_priors(class_prior, box_prior, reg_max)
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.reg_max = reg_max
        self.num_prototypes = num_prototypes
        self.loss_scale = loss_scale
        self.class_prior = class_prior
        self.box_prior = box_prior
        self.test_settings = read_settings(test_cfg, nms_free=nms_free)

        layer = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.reg_branches, self.cls_branches, self.coeff_branches = build_branches(
            in_channels,
            version=version,
            num_classes=num_classes,
            num_bins=reg_max,
            num_prototypes=num_prototypes,
            **layer,
        )
        self.proto = MODELS.build(
            dict(in_channels=in_channels, num_prototypes=num_prototypes, **layer) | proto
        )
        self.prior_generator = TASK_UTILS.build(
            dict(type='mmdet.MlvlPointGenerator', strides=list(strides), offset=0.5)
        )
        self.criterion = SegmentCriterion(
            loss_cls=MODELS.build(loss_cls),
            loss_bbox=MODELS.build(loss_bbox),
            loss_dfl=MODELS.build(loss_dfl),
            loss_mask=MODELS.build(loss_mask),
            assigner=TASK_UTILS.build(train_cfg['assigner']) if train_cfg else None,
            reg_max=reg_max,
        )
        self.one_to_one = OneToOne(self, self.criterion) if nms_free else None
        self._check_lengths = BoxLengthCheck(reg_max, self.strides[-1])

    def init_weights(self) -> None:
        """Start scores at their prior, so that the many background cells do not drown the first steps."""
        super().init_weights()
        for branches in (self,) if self.one_to_one is None else (self, self.one_to_one):
            set_priors(
                branches, self.strides, class_prior=self.class_prior, box_prior=self.box_prior
            )

    def forward(self, features: Sequence[Tensor]) -> SegmentOutputs:
        """Levels (B, in_channels[l], H / strides[l], W / strides[l]) to raw outputs.

        With `nms_free`, those of the one-to-one branches; in training, behind those of the others.
        """
        return SegmentOutputs(*self._forward_levels(features), self.proto(features))

    def _forward_levels(self, features: Sequence[Tensor]) -> LevelOutputs:
        """Class scores, box distances and mask coefficients of each level."""
        if self.one_to_one is None:
            return run_branches(self, features)
        once = self.one_to_one(features)
        return join_levels(run_branches(self, features), once) if self.training else once

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_dists: Sequence[Tensor],
        mask_coeffs: Sequence[Tensor],
        prototypes: Tensor,
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; see `SegmentOutputs` for the first four arguments.

        Args:
            batch_gt_instances: per image `labels` (g,), `bboxes` (g, 4) xyxy in pixels of the network input,
                `masks` BitmapMasks or PolygonMasks of the network input's size.
            batch_img_metas: not used.
            batch_gt_instances_ignore: not used: crowds are neither objects nor excluded from the background.

        Returns:
            `loss_cls`, `loss_bbox`, `loss_dfl`, `loss_mask`, scalars in float32; with `nms_free` also `loss_o2o_cls`
            and so on, of the one-to-one branches.
        """
        outputs = SegmentOutputs(cls_scores, bbox_dists, mask_coeffs, prototypes)
        return self.losses(
            outputs, self.collect_truth(batch_gt_instances, self._input_size(outputs))
        )

    def losses(self, outputs: SegmentOutputs, truth: GroundTruth) -> dict[str, Tensor]:
        """`loss_by_feat` of ground truth that is collected already."""
        # Powers of overlaps and sums over thousands of priors need float32, autocast or not.
        with torch.autocast(device_type=outputs.prototypes.device.type, enabled=False):
            flat, priors = self._one_to_many(outputs)
            losses = self.criterion(flat, priors, truth)
            if self.one_to_one is not None:
                losses |= self.one_to_one.losses(outputs, priors, truth)
        return self._scale_losses(losses, len(truth.labels))

    def collect_truth(
        self, batch_gt_instances: Sequence[InstanceData], input_size: tuple[int, int]
    ) -> GroundTruth:
        """Instances to tensors, and a warning where one of them is too long for this head."""
        truth = collect_truth(
            batch_gt_instances,
            input_size=input_size,
            mask_stride=self.criterion.loss_mask.mask_stride,
        )
        self._check_lengths(truth.bboxes, input_size)
        return truth

    def _one_to_many(self, outputs: SegmentOutputs) -> tuple[FlatOutputs, Tensor]:
        """Flat outputs of the branches that have several positives for each object, and their priors."""
        if self.one_to_one is not None:
            outputs = first_levels(outputs, len(self.strides))
        return flatten_outputs(outputs), self._priors(outputs)

    def _scale_losses(self, losses: dict[str, Tensor], num_images: int) -> dict[str, Tensor]:
        """Means or sums over the batch, see `loss_scale`."""
        # DDP averages gradients over the ranks; the number of ranks makes that a sum again.
        scale = num_images * get_world_size() if self.loss_scale == 'batch' else 1
        return {name: loss * scale for name, loss in losses.items()}

    def _input_size(self, outputs: SegmentOutputs) -> tuple[int, int]:
        """(height, width) of the network input."""
        height, width = outputs.cls_scores[0].shape[-2:]
        return self.strides[0] * height, self.strides[0] * width

    def _priors(self, outputs: SegmentOutputs) -> Tensor:
        """(A, 4): centre x, centre y, stride x, stride y in pixels of the network input."""
        levels = self.prior_generator.grid_priors(
            [level.shape[-2:] for level in outputs.cls_scores],
            device=outputs.prototypes.device,
            with_stride=True,
        )
        return torch.cat(levels)

    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_dists: Sequence[Tensor],
        mask_coeffs: Sequence[Tensor],
        prototypes: Tensor,
        batch_img_metas: Sequence[dict],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Detections of a batch; see `SegmentOutputs` for the first four arguments.

        Args:
            batch_img_metas: what `OutputFrame.from_meta` reads.
            rescale: True for results in the original image, False for the network input (`img_shape`).

        Returns:
            Per image `bboxes` (n, 4) xyxy clipped to the image, `scores` (n,) descending, `labels` (n,), `masks`
            (n, height, width) bool or, by `mask_format`, n COCO run lengths.
        """
        outputs = SegmentOutputs(cls_scores, bbox_dists, mask_coeffs, prototypes)
        input_size = self._input_size(outputs)
        with torch.autocast(device_type=prototypes.device.type, enabled=False):
            return [
                self.to_instances(
                    detected, OutputFrame.from_meta(meta, input_size, rescale=rescale)
                )
                for detected, meta in zip(self.detect(outputs), batch_img_metas, strict=True)
            ]

    def decode(self, outputs: SegmentOutputs) -> PriorPredictions:
        """Probabilities and boxes of every prior; with `nms_free`, those of the one-to-one branches."""
        outputs = last_levels(outputs, len(self.strides))
        flat = flatten_outputs(outputs)
        bboxes = decode_boxes(flat.box_dists, self._priors(outputs), self.reg_max)
        return PriorPredictions(flat.cls_logits.sigmoid(), bboxes, flat.coeffs, flat.prototypes)

    def detect(self, outputs: SegmentOutputs) -> Iterator[ImageDetections]:
        """Boxes, classes and mask coefficients of each image in turn, before any mask is made."""
        for scores, bboxes, coeffs, prototypes in zip(*self.decode(outputs), strict=True):
            found = select_detections(scores, bboxes, self.test_settings)
            # By prior, not by detection: a prior stands for several classes where multi_label is on.
            yield ImageDetections(found, coeffs[:, found.prior].T, prototypes)

    def to_instances(
        self,
        detected: ImageDetections,
        frame: OutputFrame,
        correction: MaskCorrection | None = None,
    ) -> InstanceData:
        """Detections of one image in its output frame, with masks; `correction` refines them."""
        found = detected.found
        return InstanceData(
            bboxes=frame.from_input(found.bboxes),
            scores=found.scores,
            labels=found.labels,
            masks=assemble_masks(detected, frame, self.test_settings, correction),
        )
