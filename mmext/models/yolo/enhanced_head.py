"""`SegmentEnhanced`: `Segment` with refined masks and a semantic branch for training. Part of the adapter.

Shape letters: B images, C classes, K prototypes, D channels of the refiner's context; h w the size of the prototypes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmext.models.common.layers import ACT_CFG, NORM_CFG
from mmext.models.yolo.assembly import MaskCorrection, OutputFrame
from mmext.models.yolo.criterion import GroundTruth, mask_positives
from mmext.models.yolo.head import Segment
from mmext.models.yolo.outputs import SegmentOutputs
from mmext.models.yolo.postprocess import ImageDetections
from mmext.models.yolo.refiner import expand_boxes
from mmext.models.yolo.semantic import semantic_targets
from mmext.models.yolo.targets import draw_positives
from mmext.registry import MODELS


class EnhancedOutputs(NamedTuple):
    """Raw outputs: those of `SegmentOutputs`, and `extras`.

    Attributes:
        extras: `context` (B, D, h, w) with a refiner; `semantic` (B, C, h, w of the finest level) logits in training
            with a semantic branch.
    """

    cls_scores: Sequence[Tensor]
    bbox_dists: Sequence[Tensor]
    mask_coeffs: Sequence[Tensor]
    prototypes: Tensor
    extras: dict[str, Tensor]


# The second level of our own inheritance, where the house rule allows one: the network of `Segment` is a part of this
# one under the same names, so that published weights and checkpoints of `Segment` load as they are.
@MODELS.register_module()
class SegmentEnhanced(Segment):
    """`Segment` whose masks a refiner corrects, and whose features a semantic branch may teach.

    Meant for `mmext.MultiScaleProto` with 64 prototypes, but any `proto` with `embed`, `cv3` and `embed_channels`
    does. Without refiner and semantic branch, it is `Segment`.

    Args:
        num_classes: C.
        in_channels: channels of the levels, finest first.
        refiner: config of `MaskRefiner`; `in_channels`, `norm_cfg` and `act_cfg` are filled in. None for none.
        loss_refine: config of `RefineLoss`; given if, and only if, there is a refiner.
        semantic: config of `SemanticBranch`; `in_channels`, `num_classes`, `norm_cfg` and `act_cfg` are filled in.
            None for none.
        loss_sem: config of `SemanticLoss`; given if, and only if, there is a semantic branch.
        norm_cfg: normalisation of the convolutions; None for a bias instead.
        act_cfg: activation of the convolutions; None for none.
        segment: all other arguments of `Segment`.

    Raises:
        ValueError: a branch without its loss, a loss without its branch.
    """

    # A second copy of the fifteen arguments of `Segment` could only drift from the first: they are passed through.
    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        *,
        refiner: dict | None = None,
        loss_refine: dict | None = None,
        semantic: dict | None = None,
        loss_sem: dict | None = None,
        norm_cfg: dict | None = NORM_CFG,
        act_cfg: dict | None = ACT_CFG,
        **segment: Any,
    ) -> None:
        layer: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        super().__init__(num_classes, in_channels, **layer, **segment)
        _check_pair('refiner', refiner, 'loss_refine', loss_refine)
        _check_pair('semantic', semantic, 'loss_sem', loss_sem)
        self.refiner = None
        if refiner is not None:
            self.refiner = MODELS.build(
                dict(in_channels=self.proto.embed_channels, **layer) | refiner
            )
            self.loss_refine = MODELS.build(loss_refine)
        self.semantic = None
        if semantic is not None:
            self.semantic = MODELS.build(
                dict(in_channels=in_channels[0], num_classes=num_classes, **layer) | semantic
            )
            self.loss_sem = MODELS.build(loss_sem)

    # In the three overrides: one raw output more, which mmdet hands on as it comes.
    def forward(self, features: Sequence[Tensor]) -> EnhancedOutputs:  # type: ignore[override]
        """Levels (B, in_channels[l], H / strides[l], W / strides[l]) to raw outputs."""
        embedding = self.proto.embed(features)
        extras = {}
        if self.refiner is not None:
            extras['context'] = self.refiner.context(embedding)
        if self.semantic is not None and self.training:
            extras['semantic'] = self.semantic(features[0])
        return EnhancedOutputs(*self._forward_levels(features), self.proto.cv3(embedding), extras)

    def loss_by_feat(  # type: ignore[override]
        self,
        cls_scores: Sequence[Tensor],
        bbox_dists: Sequence[Tensor],
        mask_coeffs: Sequence[Tensor],
        prototypes: Tensor,
        extras: dict[str, Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; see `EnhancedOutputs` for the first five arguments, `Segment` for the others.

        Returns:
            The losses of `Segment`; `loss_refine` with a refiner, `loss_sem` with `semantic` among the extras.
        """
        outputs = SegmentOutputs(cls_scores, bbox_dists, mask_coeffs, prototypes)
        truth = self.collect_truth(batch_gt_instances, self._input_size(outputs))
        return self.losses(EnhancedOutputs(*outputs, extras), truth)

    def losses(  # type: ignore[override]
        self, enhanced: EnhancedOutputs, truth: GroundTruth
    ) -> dict[str, Tensor]:
        """`loss_by_feat` of ground truth that is collected already."""
        outputs, extras = SegmentOutputs(*enhanced[:-1]), enhanced.extras
        input_size = self._input_size(outputs)
        with torch.autocast(device_type=outputs.prototypes.device.type, enabled=False):
            flat, priors = self._one_to_many(outputs)
            positives = self.criterion.match(flat, priors, truth)
            losses = self.criterion.losses(flat, priors, truth, positives)
            if self.refiner is not None:
                drawn = draw_positives(
                    positives.image, positives.gt, self.loss_refine.max_positives
                )
                losses['loss_refine'] = self.loss_refine(
                    self.refiner,
                    flat.prototypes,
                    extras['context'].float(),
                    positives=mask_positives(flat.coeffs, positives.take(drawn), truth),
                    input_size=input_size,
                )
            if 'semantic' in extras:
                logits = extras['semantic']
                target = semantic_targets(
                    truth.labels,
                    truth.masks,
                    num_classes=self.num_classes,
                    size=(logits.shape[2], logits.shape[3]),
                )
                losses['loss_sem'] = self.loss_sem(logits, target)
            if self.one_to_one is not None:
                losses |= self.one_to_one.losses(outputs, priors, truth)
        return self._scale_losses(losses, len(truth.labels))

    def predict_by_feat(  # type: ignore[override]
        self,
        cls_scores: Sequence[Tensor],
        bbox_dists: Sequence[Tensor],
        mask_coeffs: Sequence[Tensor],
        prototypes: Tensor,
        extras: dict[str, Tensor],
        batch_img_metas: Sequence[dict],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Detections of a batch; see `EnhancedOutputs` for the first five arguments, `Segment` for the others."""
        outputs = SegmentOutputs(cls_scores, bbox_dists, mask_coeffs, prototypes)
        input_size = self._input_size(outputs)
        results = []
        with torch.autocast(device_type=prototypes.device.type, enabled=False):
            for i, detected in enumerate(self.detect(outputs)):
                frame = OutputFrame.from_meta(batch_img_metas[i], input_size, rescale=rescale)
                correction = None
                if self.refiner is not None:
                    context = extras['context'][i].float()
                    correction = self._correct(detected, context, input_size)
                results.append(self.to_instances(detected, frame, correction))
        return results

    def _correct(
        self, detected: ImageDetections, context: Tensor, input_size: tuple[int, int]
    ) -> MaskCorrection:
        """What the refiner adds to the masks of one image; context (D, h, w)."""
        assert self.refiner is not None
        bboxes = detected.found.bboxes
        # The boxes of training end where the image does.
        regions = expand_boxes(_clip(bboxes, input_size), self.refiner.expansion)
        # Boxes that crop their masks may be longer than what the refiner learnt on: they are corrected all over.
        crops = _clip(expand_boxes(bboxes, self.test_settings.mask_box_expand), input_size)
        regions = torch.cat(
            [regions[:, :2].minimum(crops[:, :2]), regions[:, 2:].maximum(crops[:, 2:])], dim=1
        )
        deltas = self.refiner.predict(
            detected.coeffs,
            detected.prototypes,
            context,
            regions=regions,
            input_size=input_size,
        )
        return MaskCorrection(deltas, regions)


def _clip(bboxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of boxes (N, 4) xyxy that lies inside (height, width)."""
    return bboxes.clamp(min=0).minimum(bboxes.new_tensor([size[1], size[0], size[1], size[0]]))


def _check_pair(part: str, config: dict | None, loss: str, loss_config: dict | None) -> None:
    if (config is None) != (loss_config is None):
        given, missing = (part, loss) if loss_config is None else (loss, part)
        raise ValueError(
            f'SegmentEnhanced: got {given} without {missing}, expected both or neither. Set {missing}, or {given}=None.'
        )
