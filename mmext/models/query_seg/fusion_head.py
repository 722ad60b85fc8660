"""mmdet's last step of Mask2Former with the semantic results that it lacks: an adapter."""

from typing import Any

from mmdet.models.seg_heads.panoptic_fusion_heads import MaskFormerFusionHead
from mmdet.structures import SampleList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData, PixelData
from torch import Tensor
from torch.nn import functional

from mmext.models.query_seg.semantics import predict_class_map
from mmext.registry import MODELS


@MODELS.register_module()
class QueryFusionHead(MaskFormerFusionHead):
    """`mmdet.MaskFormerFusionHead` that knows `test_cfg.semantic_on`.

    Samples then get `pred_sem_seg.sem_seg`, (1, H, W) int64 in [0, num_classes), things first, as mmdet's `SemSegMetric`
    reads it. Every pixel gets its best class: there is no background unless it is one of the classes.

    Args:
        test_cfg: of `mmdet.MaskFormerFusionHead`, whose `semantic_on` must be False.
        **kwargs: of `mmdet.MaskFormerFusionHead`.
    """

    test_cfg: ConfigDict

    def __init__(self, test_cfg: dict | None = None, **kwargs: Any) -> None:
        others = dict(test_cfg or {})
        # mmdet's `predict` refuses it.
        self.semantic_on = others.pop('semantic_on', False)
        super().__init__(test_cfg=others, **kwargs)

    def predict(
        self,
        mask_cls_results: Tensor,
        mask_pred_results: Tensor,
        batch_data_samples: SampleList,
        rescale: bool = False,
        **kwargs: Any,
    ) -> list[dict]:
        """Results of a batch.

        mmdet's detector refuses semantic results in what is returned, so they are put into the samples here.

        Args:
            mask_cls_results: (B, Q, C + 1) logits.
            mask_pred_results: (B, Q, H, W) logits at the size of the network input.
            batch_data_samples: B of them; changed.
            rescale: to the size of the files, instead of the resized images.
            **kwargs: not read, by mmdet neither.

        Returns:
            For each image `pan_results` and `ins_results`, as far as `test_cfg` asks for them.
        """
        if self.semantic_on:
            for classes, masks, sample in zip(
                mask_cls_results, mask_pred_results, batch_data_samples, strict=True
            ):
                meta = sample.metainfo
                height, width = meta['img_shape'][:2]
                masks = masks[:, :height, :width]  # without the padding
                if rescale:
                    masks = functional.interpolate(
                        masks[None], meta['ori_shape'][:2], mode='bilinear', align_corners=False
                    )[0]
                class_map = predict_class_map(classes, masks)
                sample.pred_sem_seg = PixelData(sem_seg=class_map[None])
        return super().predict(
            mask_cls_results, mask_pred_results, batch_data_samples, rescale=rescale
        )

    def instance_postprocess(self, mask_cls: Tensor, mask_pred: Tensor) -> InstanceData:
        """Objects of an image; as mmdet's, which fails where there are fewer candidates than `max_per_image`.

        Args:
            mask_cls: (Q, C + 1) logits.
            mask_pred: (Q, H, W) logits.

        Returns:
            At most `max_per_image` of the Q C pairs of a query and a class, without those of stuff: `bboxes` (n, 4) xyxy,
            `labels` (n,), `scores` (n,), `masks` (n, H, W) bool.
        """
        settings, limit = self.test_cfg, self.test_cfg.get('max_per_image', 100)
        try:
            # mmdet reads it from there; the next image may have more queries.
            possible = min(limit, len(mask_cls) * self.num_classes)
            self.test_cfg = ConfigDict(settings, max_per_image=possible)
            return super().instance_postprocess(mask_cls, mask_pred)
        finally:
            self.test_cfg = settings
