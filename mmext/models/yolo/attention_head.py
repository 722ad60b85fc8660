"""`SegmentAttention`: queries that attend to the image make the masks, next to a `Segment` head. Part of the adapter.

Source: Mask2Former (https://arxiv.org/abs/2112.01527) for the queries.

Shape letters: B images, Q queries, C classes, d embedding channels, h w the size of the mask features, A priors.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from mmext.models.common.query_outputs import QueryOutputs, predict_masks
from mmext.models.yolo.assembly import OutputFrame
from mmext.models.yolo.idle_settings import warn_of_idle_settings
from mmext.models.yolo.outputs import SegmentOutputs
from mmext.models.yolo.postprocess import Detections, ImageDetections
from mmext.models.yolo.query_postprocess import ImageOutputs, split_test_config
from mmext.models.yolo.query_seeds import (
    TrainingSeeds,
    collate_seeds,
    seed_training,
    select_seeds,
)
from mmext.registry import MODELS


class AttentionOutputs(NamedTuple):
    """Raw outputs of the head.

    Attributes:
        det: outputs of the `Segment` head.
        pred_masks: (B, Q, h, w) logits.
        pred_classes: (B, Q, C + 1) logits, the last is "no object".
        query_embeddings: (B, Q, d) the queries after the last layer.
        intermediate_masks: (B, Q, h, w) logits before the first layer and after every layer but the last; none in
            eval mode.
        mask_features: (B, d, h, w), at twice the size of the finest level.
    """

    det: SegmentOutputs
    pred_masks: Tensor
    pred_classes: Tensor
    query_embeddings: Tensor
    intermediate_masks: list[Tensor]
    mask_features: Tensor


@MODELS.register_module()
class SegmentAttention(BaseDenseHead):
    """A `Segment` head and a query decoder on the same levels; use it in `mmdet.SingleStageDetector`.

    What comes out is up to `test_cfg.mode`: 'queries' (queries alone), 'matched' (detections that take the mask of
    the query that agrees with them) or 'seeded' (each query starts from a detection and makes its mask).

    Memory in training: the loss never makes a mask. It takes `num_points` of each, so that what grows with the
    queries that have an object, at most Q, is 3.25 `num_points` (layers + 1) logits for each: 114 MB for 12544 points,
    100 queries and 6 layers, whatever the size of the image, and no more for the 300th object than for the 100th.

    Args:
        det: config of the `Segment` head, with `loss_scale='mean'`.
        decoder: config of the `QueryMaskDecoder`; `num_classes` and `in_channels` are filled in.
        criterion: config of the `QueryCriterion`; `num_classes` is filled in.
        num_seeds: queries that start from detections, the best ones of each image; 0 for learned queries.
        seeds_per_object: seeds of each object's own in training, see `seed_training`; more teach masks faster.
        query_loss_weight: factor of all losses of the queries.
        query_grad_scale: factor in [0, 1] of the gradient that the queries send into the neck.
        train_cfg: that of `det`.
        test_cfg: `mode` and its settings, see `query_postprocess`; the rest is that of `det`, see
            `postprocess.TestSettings`.
        init_cfg: mmengine initialisation.

    Raises:
        ValueError: an argument out of its range, or a loss of `det` that is summed over the batch.
    """

    def __init__(
        self,
        det: dict,
        decoder: dict,
        criterion: dict,
        *,
        num_seeds: int = 0,
        seeds_per_object: int = 4,
        query_loss_weight: float = 1.0,
        query_grad_scale: float = 1.0,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 0 <= query_grad_scale <= 1 or seeds_per_object < 1:
            raise ValueError(
                f'SegmentAttention: got query_grad_scale={query_grad_scale}, seeds_per_object={seeds_per_object}; '
                'expected a number in [0, 1], and at least 1.'
            )
        if num_seeds:
            decoder = dict(num_queries=0) | decoder
        if num_seeds < 0 or bool(num_seeds) == bool(decoder.get('num_queries', 100)):
            raise ValueError(
                f'SegmentAttention: got num_seeds={num_seeds} and decoder.num_queries='
                f'{decoder.get("num_queries")}, expected one of them above 0: queries start from detections, or '
                'they are learned.'
            )
        self.mode, det_test_cfg = split_test_config(test_cfg, is_seeded=num_seeds > 0)
        self.det = MODELS.build(dict(det, train_cfg=train_cfg, test_cfg=det_test_cfg))
        if self.det.loss_scale != 'mean':
            raise ValueError(
                f"SegmentAttention: got det.loss_scale={self.det.loss_scale!r}, expected 'mean': the queries' losses "
                'are means over objects, which a sum over the batch would drown, and their attention does not train '
                "with SGD at the rate that goes with it. Set loss_scale='mean' and use AdamW."
            )
        num_classes = self.det.num_classes
        self.decoder = MODELS.build(
            dict(num_classes=num_classes, in_channels=det['in_channels']) | decoder
        )
        self.criterion = MODELS.build(dict(num_classes=num_classes) | criterion)
        warn_of_idle_settings(
            det_test_cfg,
            self.mode,
            num_seeds=num_seeds,
            num_queries=num_seeds or decoder.get('num_queries', 100),
            num_classes=num_classes,
        )
        self.num_seeds = num_seeds
        self.seeds_per_object = seeds_per_object
        self.query_loss_weight = query_loss_weight
        self.query_grad_scale = query_grad_scale

    def forward(self, features: Sequence[Tensor]) -> AttentionOutputs:
        """Levels (B, in_channels[l], H / strides[l], W / strides[l]) to raw outputs, with whole masks."""
        det = self.det(features)
        queries = self._decode(features, self._find_seeds(det))
        masks = [predict_masks(own, queries.mask_features) for own in queries.mask_embeddings]
        return AttentionOutputs(
            det=det,
            pred_masks=masks[-1],
            pred_classes=queries.class_logits[-1],
            query_embeddings=queries.query_embeddings,
            intermediate_masks=masks[:-1],
            mask_features=queries.mask_features,
        )

    def _decode(
        self, features: Sequence[Tensor], seeds: Sequence[Detections | TrainingSeeds] | None
    ) -> QueryOutputs:
        """The decoder, from the seeds of each image; None for learned queries."""
        query_seeds = None
        if seeds is not None:
            query_seeds = collate_seeds(
                seeds, num_seeds=self.num_seeds, input_size=self._input_size(features)
            )
        return self.decoder(
            [scale_gradient(level, self.query_grad_scale) for level in features], query_seeds
        )

    def _input_size(self, features: Sequence[Tensor]) -> tuple[int, int]:
        """(height, width) of the network input."""
        height, width = features[0].shape[2:]
        return self.det.strides[0] * height, self.det.strides[0] * width

    def _find_seeds(self, det: SegmentOutputs) -> list[Detections] | None:
        """What the queries of each image start from; None where they are learned."""
        if not self.num_seeds:
            return None
        scores, bboxes = self._decode_priors(det)
        return [
            select_seeds(*image, self.det.test_settings, self.num_seeds)
            for image in zip(scores, bboxes, strict=True)
        ]

    def _find_training_seeds(
        self, det: SegmentOutputs, gt_bboxes: Sequence[Tensor]
    ) -> list[TrainingSeeds] | None:
        """`_find_seeds`, led by the priors that fit the objects (g, 4) of each image best."""
        if not self.num_seeds:
            return None
        scores, bboxes = self._decode_priors(det)
        return [
            seed_training(*image, self.det.test_settings, self.num_seeds, self.seeds_per_object)
            for image in zip(scores, bboxes, gt_bboxes, strict=True)
        ]

    @torch.no_grad()
    def _decode_priors(self, det: SegmentOutputs) -> tuple[Tensor, Tensor]:
        """Class probabilities (B, C, A) and boxes (B, A, 4) xyxy in pixels of the network input."""
        with torch.autocast(device_type=det.prototypes.device.type, enabled=False):
            return self.det.decode(det)[:2]

    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[DetDataSample]) -> dict:
        """Losses of a batch; `forward` would make masks that they do not need. See `loss_by_feat`."""
        gt_instances, _, metas = unpack_gt_instances(batch_data_samples)
        det = self.det(x)
        seeds = self._find_training_seeds(det, [gt.bboxes for gt in gt_instances])
        return self.loss_by_feat(det, self._decode(x, seeds), seeds, gt_instances, metas)

    def loss_by_feat(
        self,
        det: SegmentOutputs,
        queries: QueryOutputs,
        seeds: Sequence[TrainingSeeds] | None,
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            det: raw outputs of the `Segment` head.
            queries: raw outputs of the decoder.
            seeds: what the queries of each image started from; None where they are learned.
            batch_gt_instances: see `Segment.loss_by_feat`.
            batch_img_metas: the same.

        Returns:
            The losses of `det`, and `loss_q_cls`, `loss_q_mask`, `loss_q_dice` of the queries after the last layer,
            with the prefix `d{i}.` of those before layer i. Scalars in float32.
        """
        height, width = input_size = self._input_size(det.cls_scores)
        truth = self.det.collect_truth(batch_gt_instances, input_size)
        losses = self.det.losses(det, truth)
        query_losses = self.criterion(
            queries,
            truth.labels,
            truth.masks.split([len(labels) for labels in truth.labels]),
            pairs=None if seeds is None else [own.pairs for own in seeds],
            bboxes=[own / own.new_tensor([width, height] * 2) for own in truth.bboxes],
        )
        return losses | {name: self.query_loss_weight * q for name, q in query_losses.items()}

    def predict(
        self,
        x: Sequence[Tensor],
        batch_data_samples: Sequence[DetDataSample],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Objects of a batch; the detections are not computed where the mode does not use them."""
        det = self.det(x) if self.num_seeds or self.mode.uses_detections else None
        seeds = None if det is None else self._find_seeds(det)
        metas = [sample.metainfo for sample in batch_data_samples]
        return self.predict_by_feat(det, self._decode(x, seeds), seeds, metas, rescale)

    def predict_by_feat(
        self,
        det: SegmentOutputs | None,
        queries: QueryOutputs,
        seeds: Sequence[Detections] | None,
        batch_img_metas: Sequence[dict],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Objects of a batch by `test_cfg.mode`.

        Args:
            det: raw outputs of the `Segment` head; None in a mode that does not use them.
            queries: raw outputs of the decoder.
            seeds: what the queries of each image started from; None where they are learned.
            batch_img_metas: what `OutputFrame.from_meta` reads.
            rescale: True for results in the original image, False for the network input (`img_shape`).

        Returns:
            Per image `bboxes` (n, 4) xyxy inside the image, `scores` (n,) descending, `labels` (n,), `masks`
            (n, height, width) bool or, by `mask_format`, n COCO run lengths.
        """
        # The mask features have twice the finest level's size.
        height, width = (self.det.strides[0] // 2 * n for n in queries.mask_features.shape[2:])
        with torch.autocast(device_type=queries.mask_features.device.type, enabled=False):
            nothing = itertools.repeat(None, len(batch_img_metas))
            detected = self.det.detect(det) if self.mode.uses_detections else nothing
            results = []
            for i, (own, meta) in enumerate(zip(detected, batch_img_metas, strict=True)):
                image = _image_outputs(queries, i, None if seeds is None else seeds[i], own)
                frame = OutputFrame.from_meta(meta, (height, width), rescale=rescale)
                instances = self.mode(image, frame, self.det.test_settings)
                results.append(InstanceData(**instances._asdict()))
            return results


def _image_outputs(
    queries: QueryOutputs, i: int, seeds: Detections | None, detected: ImageDetections | None
) -> ImageOutputs:
    """What is known of image i; queries without a seed only fill the batch up, and are left out."""
    num_queries = None if seeds is None else len(seeds.prior)
    return ImageOutputs(
        queries.class_logits[-1][i, :num_queries].float(),
        queries.mask_embeddings[-1][i, :num_queries].float(),
        queries.mask_features[i].float(),
        detected=detected,
        seeds=seeds,
    )


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """`x`, whose gradient is multiplied by `scale` on its way back."""
    return x.detach() + scale * (x - x.detach())
