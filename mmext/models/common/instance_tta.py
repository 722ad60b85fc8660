"""Test-time augmentation for instance segmentation: views of an image are predicted, turned back and merged.

mmdet's `DetTTAModel` refuses predictions with masks.
"""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as coco_mask
import torch
from mmcv.ops import batched_nms
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.registry import MODELS

# Axes of a mask (H, W) that each direction of `mmdet.RandomFlip` turns.
FLIPPED_AXES = {'horizontal': (1,), 'vertical': (0,), 'diagonal': (0, 1)}


@MODELS.register_module()
class InstanceTTAModel(BaseTTAModel):
    """Joins the instances of all views and suppresses the doubles, class by class; masks follow their boxes.

    The views must differ by flips before the letterbox, and by scale: predictions of a flipped photo come
    in the frame of that flipped photo at its original size, and are mirrored here. `meta_keys` of the
    pipeline need `flip` and `flip_direction`.

    Args:
        module: the detector, or its config.
        data_preprocessor: as in mmengine's `BaseTTAModel`; None takes the detector's.
        nms: config of `mmcv.ops.batched_nms`.
        max_per_img: instances kept per image.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        data_preprocessor: dict | nn.Module | None = None,
        *,
        nms: dict,
        max_per_img: int = 100,
    ) -> None:
        super().__init__(module, data_preprocessor)
        self.nms = nms
        self.max_per_img = max_per_img

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list:
        """One sample per image out of the samples of its views."""
        return [self._merge_views(views) for views in data_samples_list]

    def _merge_views(self, views: Sequence[DetDataSample]) -> DetDataSample:
        turned = [unflip(view.pred_instances, view.metainfo) for view in views]
        bboxes = torch.cat([view.bboxes for view in turned])
        scores = torch.cat([view.scores for view in turned])
        labels = torch.cat([view.labels for view in turned])
        keep = torch.zeros(0, dtype=torch.long, device=labels.device)
        if len(bboxes):  # mmcv's batched_nms fails on no boxes
            dets, keep = batched_nms(bboxes, scores, labels, self.nms)
            keep, scores = keep[: self.max_per_img], dets[: self.max_per_img, -1]
        merged = InstanceData(bboxes=bboxes[keep], scores=scores, labels=labels[keep])
        if 'masks' in turned[0]:
            merged.masks = _pick_masks([view.masks for view in turned], keep)
        result = views[0].clone()
        result.pred_instances = merged
        return result


def unflip(instances: InstanceData, meta: dict) -> InstanceData:
    """Mirror the predictions of a flipped photo back.

    Args:
        instances: bboxes (N, 4) xyxy, and maybe masks, (N, H, W) bool or N run-length codes, in the frame of
            the flipped photo.
        meta: `flip`, `flip_direction` and `ori_shape` (h, w) of the view.

    Returns:
        The same in the frame of the photo.

    Raises:
        ValueError: the view does not say whether it was flipped.
    """
    if 'flip' not in meta:
        raise ValueError(
            "got a view without `flip` in its meta data; add 'flip' and 'flip_direction' to the meta_keys of "
            'PackDetInputs in tta_pipeline'
        )
    if not meta['flip']:
        return instances
    direction = meta['flip_direction']
    result = instances.clone()
    result.bboxes = bbox_flip(instances.bboxes, meta['ori_shape'], direction)
    if 'masks' in instances:
        result.masks = _flip_masks(instances.masks, FLIPPED_AXES[direction])
    return result


def _flip_masks(masks: Tensor | list[dict], axes: tuple[int, ...]) -> Tensor | list[dict]:
    if isinstance(masks, Tensor):
        return masks.flip([axis + 1 for axis in axes])
    flipped = (np.flip(coco_mask.decode(code), axes) for code in masks)
    return [coco_mask.encode(np.asfortranarray(mask)) for mask in flipped]


def _pick_masks(masks: Sequence, keep: Tensor) -> Tensor | list[dict]:
    """The kept ones out of the masks of all views, tensors or lists of run-length codes."""
    if isinstance(masks[0], Tensor):
        return torch.cat(list(masks))[keep]
    joined = [code for view in masks for code in view]
    return [joined[index] for index in keep.tolist()]
