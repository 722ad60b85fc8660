"""mmdet's Mask2Former head with a faster decoder and cheaper losses: the adapter.

Source: Mask2Former (https://arxiv.org/abs/2112.01527).
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.task_modules.assigners import HungarianAssigner
from mmdet.structures import DetDataSample, SampleList
from torch import Tensor

from mmext.models.common.query_outputs import QueryOutputs, predict_masks
from mmext.models.query_seg.criterion import PointCriterion
from mmext.models.query_seg.decoder import check_attentions, decode_queries
from mmext.models.query_seg.matcher import Costs, PointMatcher
from mmext.models.query_seg.points import PointRule
from mmext.models.query_seg.truth import ImageTruth
from mmext.registry import MODELS


@MODELS.register_module()
class FastMask2FormerHead(Mask2FormerHead):
    """`mmdet.Mask2FormerHead` with the same arguments, parameters, random points, matches, losses and predictions.

    In a config of mmdet only the type changes; checkpoints go both ways. In evaluation the forward pass returns the last
    layer's classes and masks alone.

    Args:
        **kwargs: of `mmdet.Mask2FormerHead`. `train_cfg` takes a `HungarianAssigner` with `ClassificationCost`,
            `CrossEntropyLossCost` and `DiceCost`.

    Raises:
        ValueError: an attention, an assigner or a match cost of another kind, or numbers out of their range.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_attentions(self.transformer_decoder)
        self.criterion = build_criterion(self) if self.train_cfg else None

    def forward(
        self, x: Sequence[Tensor], batch_data_samples: SampleList | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Classes and masks.

        Args:
            x: (B, C_l, H_l, W_l) of each level of the backbone, finest first.
            batch_data_samples: not read.

        Returns:
            Class logits (B, Q, C + 1) and mask logits (B, Q, H / 4, W / 4): in training of all outputs, before the first
            layer and after every layer, as mmdet's head; in evaluation lists of one, the last output.
        """
        outputs = decode(self, x, every_output=self.training)
        masks = [
            predict_masks(embeddings, outputs.mask_features)
            for embeddings in outputs.mask_embeddings
        ]
        return outputs.class_logits, masks

    def loss(self, x: Sequence[Tensor], batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of a batch; see `PointCriterion`.

        Args:
            x: (B, C_l, H_l, W_l) of each level of the backbone, finest first.
            batch_data_samples: with `gt_instances` (labels, masks) and, for panoptic training, `gt_sem_seg`.

        Raises:
            ValueError: the head has no `train_cfg`, there are no masks, or they have not the size of the network input.
        """
        truths = [
            read_truth(sample, self.num_things_classes, self.num_classes)
            for sample in batch_data_samples
        ]
        return compute_losses(self, x, truths)


def decode(
    head: Mask2FormerHead, features: Sequence[Tensor], *, every_output: bool
) -> QueryOutputs:
    """Pixel decoder and query decoder of a head."""
    mask_features, memories = head.pixel_decoder(features)
    memories = memories[: head.num_transformer_feat_level]
    return decode_queries(head, memories, mask_features, every_output=every_output)


def compute_losses(
    head: Mask2FormerHead, features: Sequence[Tensor], truths: Sequence[ImageTruth]
) -> dict[str, Tensor]:
    """Losses of a head that has a `criterion`.

    Raises:
        ValueError: it has none.
    """
    if head.criterion is None:
        raise ValueError(
            f'{type(head).__name__}: got no train_cfg, expected num_points, assigner and sampler in it. Add them as in '
            "mmdet's Mask2Former configs."
        )
    return head.criterion(decode(head, features, every_output=True), truths)


def build_criterion(head: Mask2FormerHead) -> PointCriterion:
    """Criterion from what mmdet's head has built of its config.

    Raises:
        ValueError: the config asks for what it does not know.
    """
    if type(head.assigner) is not HungarianAssigner:
        raise ValueError(
            f'FastMask2FormerHead: got train_cfg.assigner={type(head.assigner).__name__}, expected HungarianAssigner.'
        )
    points = PointRule(
        head.num_points,
        oversample_ratio=head.oversample_ratio,
        importance_sample_ratio=head.importance_sample_ratio,
    )
    return PointCriterion(
        head.num_classes,
        head.class_weight,
        matcher=PointMatcher(Costs(head.assigner.match_costs), points),
        points=points,
        loss_cls=head.loss_cls,
        loss_mask=head.loss_mask,
        loss_dice=head.loss_dice,
    )


def read_truth(sample: DetDataSample, num_things: int, num_classes: int) -> ImageTruth:
    """Objects of a sample, and behind them the classes of its background ("stuff") where it has a `gt_sem_seg`.

    Args:
        sample: with `gt_instances`; a `gt_sem_seg` is (1, H, W) int, classes from `num_things` on are stuff.
        num_things: number of classes of objects.
        num_classes: number of all classes.

    Raises:
        ValueError: there are no masks, or they have not the size of the network input.
    """
    instances = sample.gt_instances
    if 'masks' not in instances:
        raise ValueError(
            'query head: got ground truth without masks, expected BitmapMasks or PolygonMasks. Load them with '
            'LoadAnnotations(with_bbox=True, with_mask=True).'
        )
    labels = instances.labels
    masks = instances.masks.to_tensor(dtype=torch.bool, device=labels.device)
    size = sample.metainfo.get('batch_input_shape', masks.shape[1:])
    if tuple(size) != tuple(masks.shape[1:]):
        raise ValueError(
            f'query head: got masks of {tuple(masks.shape[1:])} (height, width), expected {tuple(size)}, the '
            'size of the network input. Set pad_mask=True in the data_preprocessor (and in BatchFixedSizePad).'
        )
    if 'gt_sem_seg' in sample:
        seg = sample.gt_sem_seg.sem_seg[0]
        present = seg.unique().tolist()
        stuff = [label for label in present if num_things <= label < num_classes]
        labels = torch.cat([labels, labels.new_tensor(stuff)])
        masks = torch.cat([masks, *((seg == label)[None] for label in stuff)])
    return ImageTruth(labels, masks)
