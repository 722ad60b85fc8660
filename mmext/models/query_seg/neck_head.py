"""A query decoder on the maps of any backbone and neck, in mmdet's Mask2Former detector: the adapter.

Source: Mask2Former (https://arxiv.org/abs/2112.01527) for the queries, without its pixel decoder.
"""

from collections.abc import Sequence
from typing import Any

from mmdet.structures import SampleList
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional

from mmext.models.common.query_outputs import QueryOutputs, predict_masks
from mmext.models.query_seg.head import read_truth
from mmext.registry import MODELS


@MODELS.register_module()
class QuerySegHead(BaseModule):
    """Objects of the maps that a neck has fused, or of those of a backbone alone; `panoptic_head` of `mmdet.Mask2Former`.

        model = dict(
            type='Mask2Former',
            backbone=dict(type='mmext.CSPBackbone', ...),
            neck=dict(type='mmext.CSPPAN', out_channels=[64, 128, 256], ...),
            panoptic_head=dict(
                type='mmext.QuerySegHead',
                in_channels=[64, 128, 256],
                num_things_classes=5,
                num_stuff_classes=0,
                decoder=dict(type='mmext.QueryMaskDecoder', embed_dims=128, num_queries=50),
                criterion=dict(type='mmext.QueryCriterion', num_points=2560),
            ),
            panoptic_fusion_head=dict(type='mmext.QueryFusionHead', num_things_classes=5, num_stuff_classes=0),
            test_cfg=dict(panoptic_on=False, instance_on=True, max_per_image=100),
        )

    Masks have half the finest map's stride: give maps of strides 8, 16, 32 for masks of a quarter of the image's sides.
    Maps of one stride, of a plain ViT, are as good; layers see one map after another, the last of `in_channels` first.

    Args:
        in_channels: channels of each map, finest first.
        num_things_classes: classes of objects.
        num_stuff_classes: classes of the background, learned from `gt_sem_seg`; 0 for instances alone.
        decoder: config of a `QueryMaskDecoder` with learned queries; `num_classes` and `in_channels` are filled in.
        criterion: config of the `QueryCriterion`; `num_classes` is filled in.
        train_cfg: None: what mmdet's heads read there is in `criterion`. The detector hands its own on.
        test_cfg: the detector's, which the fusion head reads; not this head.
        init_cfg: mmengine initialisation.

    Raises:
        ValueError: there is a `train_cfg`, or the decoder's queries start from detections, which there are not.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        num_things_classes: int,
        num_stuff_classes: int,
        decoder: dict[str, Any],
        criterion: dict[str, Any],
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if train_cfg:
            raise ValueError(
                f'QuerySegHead: got train_cfg with {sorted(train_cfg)}, expected none: points, costs and weights are '
                'arguments of criterion. Remove model.train_cfg.'
            )
        if decoder.get('num_queries', 100) < 1:
            raise ValueError(
                f'QuerySegHead: got decoder.num_queries={decoder["num_queries"]}, expected at least 1: there are no '
                'detections to start from. Use mmext.SegmentAttention for queries that do.'
            )
        self.in_channels = tuple(in_channels)
        # mmdet's detector asks for these three.
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.num_classes = num_things_classes + num_stuff_classes
        self.decoder = MODELS.build(
            dict(num_classes=self.num_classes, in_channels=self.in_channels) | decoder
        )
        self.criterion = MODELS.build(dict(num_classes=self.num_classes) | criterion)

    def forward(
        self, x: Sequence[Tensor], batch_data_samples: SampleList | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Classes and masks.

        Args:
            x: (B, in_channels[l], H_l, W_l) of each map, finest first.
            batch_data_samples: not read.

        Returns:
            Class logits (B, Q, C + 1) and mask logits (B, Q, 2 H_0, 2 W_0): in training before the first layer and after
            every layer, in evaluation after the last alone.
        """
        outputs = self._decode(x)
        masks = [predict_masks(own, outputs.mask_features) for own in outputs.mask_embeddings]
        return outputs.class_logits, masks

    def loss(self, x: Sequence[Tensor], batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of a batch; see `QueryCriterion`.

        Args:
            x: as in `forward`.
            batch_data_samples: with `gt_instances` (labels, masks) and, for stuff, `gt_sem_seg`.

        Raises:
            ValueError: there are no masks, or they have not the size of the network input.
        """
        truths = [
            read_truth(sample, self.num_things_classes, self.num_classes)
            for sample in batch_data_samples
        ]
        return self.criterion(
            self._decode(x),
            [truth.labels for truth in truths],
            [truth.masks for truth in truths],
        )

    def predict(self, x: Sequence[Tensor], batch_data_samples: SampleList) -> tuple[Tensor, Tensor]:
        """What the fusion head makes objects, classes of pixels or both of.

        Args:
            x: as in `forward`.
            batch_data_samples: whose `batch_input_shape` is the size of the network input.

        Returns:
            Class logits (B, Q, C + 1) and mask logits (B, Q, H, W) of the network input's size, in float32.
        """
        outputs = self._decode(x)
        masks = predict_masks(outputs.mask_embeddings[-1], outputs.mask_features).float()
        size = tuple(batch_data_samples[0].metainfo['batch_input_shape'])
        resized = functional.interpolate(masks, size, mode='bilinear', align_corners=False)
        return outputs.class_logits[-1].float(), resized

    def _decode(self, x: Sequence[Tensor]) -> QueryOutputs:
        found = tuple(level.shape[1] for level in x)
        if found != self.in_channels:
            raise ValueError(
                f'QuerySegHead: got maps of {list(found)} channels, expected in_channels={list(self.in_channels)}. Set '
                'in_channels to what the neck, or the backbone without one, hands on.'
            )
        return self.decoder(x)
