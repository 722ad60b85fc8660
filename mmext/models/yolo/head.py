"""`Segment`: the YOLO head that predicts boxes, classes and masks in one stage. The adapter to mmdet.

Only this file of the system sees data samples: it turns them into tensors, and tensors into results.

Shape letters: B images, A priors over all levels, C classes, R bins of a side's distribution, K prototypes.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmengine.dist import get_world_size
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.models.common.layers import ACT_CFG, NORM_CFG
from mmext.models.yolo.assembly import OutputFrame, assemble_bitmaps, assemble_rles
from mmext.models.yolo.branches import (
    CLASS_BRANCHES,
    plain_branch,
    set_box_prior,
    set_class_prior,
)
from mmext.models.yolo.criterion import GroundTruth, SegmentCriterion
from mmext.models.yolo.outputs import SegmentOutputs, decode_boxes, flatten_outputs
from mmext.models.yolo.postprocess import TestSettings, select_detections
from mmext.models.yolo.targets import pool_batch_masks
from mmext.registry import MODELS, TASK_UTILS

LOSS_SCALES = ('batch', 'mean')
ASSEMBLERS = {'bitmap': assemble_bitmaps, 'rle': assemble_rles}


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
        norm_cfg: dict | None = NORM_CFG,
        act_cfg: dict | None = ACT_CFG,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(in_channels) != len(strides):
            raise ValueError(
                f'Segment: got {len(in_channels)} in_channels for {len(strides)} strides; give one per level.'
            )
        _check_choice('version', version, CLASS_BRANCHES)
        _check_choice('loss_scale', loss_scale, LOSS_SCALES)
        _check_priors(class_prior, box_prior, reg_max)
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.reg_max = reg_max
        self.num_prototypes = num_prototypes
        self.loss_scale = loss_scale
        self.class_prior = class_prior
        self.box_prior = box_prior
        self.test_settings = TestSettings.from_config(test_cfg)

        layer = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self._build_branches(list(in_channels), CLASS_BRANCHES[version], layer)
        self.proto = MODELS.build(
            dict(in_channels=in_channels, num_prototypes=num_prototypes, **layer) | proto
        )
        self._warned_of_size = False
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

    def _build_branches(self, in_channels: list[int], class_branch: Callable, layer: dict) -> None:
        """The widths follow from the finest level, for all levels alike."""
        finest = in_channels[0]
        num_dists = 4 * self.reg_max

        def per_level(make: Callable, hidden: int, out_channels: int) -> nn.ModuleList:
            return nn.ModuleList(make(c, hidden, out_channels, **layer) for c in in_channels)

        reg_hidden = max(16, finest // 4, num_dists)
        cls_hidden = max(finest, min(self.num_classes, 100))
        coeff_hidden = max(finest // 4, self.num_prototypes)
        self.reg_branches = per_level(plain_branch, reg_hidden, num_dists)
        self.cls_branches = per_level(class_branch, cls_hidden, self.num_classes)
        self.coeff_branches = per_level(plain_branch, coeff_hidden, self.num_prototypes)

    def init_weights(self) -> None:
        """Start scores at their prior, so that the many background cells do not drown the first steps."""
        super().init_weights()
        for branch, stride in zip(self.cls_branches, self.strides, strict=True):
            set_class_prior(branch, self.class_prior, num_classes=self.num_classes, stride=stride)
        for branch in self.reg_branches:
            set_box_prior(branch, self.box_prior, num_bins=self.reg_max)

    def forward(self, features: Sequence[Tensor]) -> SegmentOutputs:
        """Levels (B, in_channels[l], H / strides[l], W / strides[l]) to raw outputs."""
        return SegmentOutputs(
            [branch(x) for branch, x in zip(self.cls_branches, features, strict=True)],
            [branch(x) for branch, x in zip(self.reg_branches, features, strict=True)],
            [branch(x) for branch, x in zip(self.coeff_branches, features, strict=True)],
            self.proto(features),
        )

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
            `loss_cls`, `loss_bbox`, `loss_dfl`, `loss_mask`, scalars in float32.
        """
        outputs = SegmentOutputs(cls_scores, bbox_dists, mask_coeffs, prototypes)
        truth = self._collect_truth(batch_gt_instances, self._input_size(outputs))
        # Powers of overlaps and sums over thousands of priors need float32, autocast or not.
        with torch.autocast(device_type=prototypes.device.type, enabled=False):
            losses = self.criterion(flatten_outputs(outputs), self._priors(outputs), truth)
        # DDP averages gradients over the ranks; the number of ranks makes that a sum again.
        scale = len(batch_gt_instances) * get_world_size() if self.loss_scale == 'batch' else 1
        return {name: loss * scale for name, loss in losses.items()}

    def _collect_truth(
        self, batch_gt_instances: Sequence[InstanceData], input_size: tuple[int, int]
    ) -> GroundTruth:
        """Instances to tensors on the device of the boxes."""
        if not all('masks' in gt for gt in batch_gt_instances):
            raise ValueError(
                'Segment: got ground truth without masks, expected BitmapMasks or PolygonMasks. '
                'Load them with LoadAnnotations(with_bbox=True, with_mask=True).'
            )
        bboxes = [gt.bboxes.float() for gt in batch_gt_instances]
        self._warn_of_size(bboxes, input_size)
        stride = self.criterion.loss_mask.mask_stride
        masks = pool_batch_masks([gt.masks for gt in batch_gt_instances], input_size, stride)
        return GroundTruth(
            labels=[gt.labels for gt in batch_gt_instances],
            bboxes=bboxes,
            masks=masks.to(bboxes[0].device, non_blocking=True),
        )

    def _warn_of_size(self, bboxes: list[Tensor], input_size: tuple[int, int]) -> None:
        """Say once that an object is longer than any box this head can predict."""
        longest = 2 * (self.reg_max - 1) * self.strides[-1]
        if self._warned_of_size or max(input_size) <= longest:
            return  # no object can be, and the device need not be asked
        boxes = torch.cat(bboxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        if (sides > longest).any():
            self._warned_of_size = True
            MMLogger.get_current_instance().warning(
                f'Segment: an object is {sides.max():.0f} pixels long in the network input, but with '
                f'reg_max={self.reg_max} no box is longer than {longest}: it will be cut. Raise reg_max or '
                'shrink the input.'
            )

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
            flat = flatten_outputs(outputs)
            bboxes = decode_boxes(flat.box_dists, self._priors(outputs), self.reg_max)
            scores = flat.cls_logits.sigmoid()
            return [
                self._predict_image(
                    scores[i],
                    bboxes[i],
                    coeffs=flat.coeffs[i],
                    prototypes=flat.prototypes[i],
                    frame=OutputFrame.from_meta(meta, input_size, rescale=rescale),
                )
                for i, meta in enumerate(batch_img_metas)
            ]

    def _predict_image(
        self,
        scores: Tensor,
        bboxes: Tensor,
        *,
        coeffs: Tensor,
        prototypes: Tensor,
        frame: OutputFrame,
    ) -> InstanceData:
        """Scores (C, A), boxes (A, 4), coefficients (K, A), prototypes (K, h, w) of one image."""
        settings = self.test_settings
        found = select_detections(scores, bboxes, settings)
        output_bboxes = frame.from_input(found.bboxes)
        # By prior, not by detection: a prior stands for several classes where multi_label is on.
        masks = ASSEMBLERS[settings.mask_format](
            coeffs[:, found.prior].T,
            prototypes,
            output_bboxes,
            frame=frame,
            threshold=settings.mask_thr_binary,
        )
        return InstanceData(
            bboxes=output_bboxes, scores=found.scores, labels=found.labels, masks=masks
        )


def _check_priors(class_prior: float | None, box_prior: float | None, reg_max: int) -> None:
    if class_prior is not None and not 0 < class_prior < 1:
        raise ValueError(f'Segment: got class_prior={class_prior}, expected a number in (0, 1).')
    # The middle of the bins is the largest mean that a falling distribution over them can have.
    largest = (reg_max - 1) / 2
    if box_prior is not None and not 0 < box_prior <= largest:
        raise ValueError(
            f'Segment: got box_prior={box_prior} cells, expected above 0 and at most {largest}, the middle of '
            f'reg_max={reg_max}; None is that.'
        )


def _check_choice(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f'Segment: got {name}={value!r}, expected one of {sorted(known)}.')
