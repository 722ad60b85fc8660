"""Test-time augmentation for instance segmentation: views of an image are predicted, turned back and averaged.

mmdet's `DetTTAModel` refuses predictions with masks.
"""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as coco_mask
import torch
from mmcv.ops import batched_nms
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip, bbox_overlaps
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.registry import MODELS

# Axes of a mask (H, W) that each direction of `mmdet.RandomFlip` turns.
FLIPPED_AXES = {'horizontal': (1,), 'vertical': (0,), 'diagonal': (0, 1)}


@MODELS.register_module()
class InstanceTTAModel(BaseTTAModel):
    """Averages what the views of an image say about each object.

    Findings of one class whose boxes overlap the surest of them are one object, as in a suppression. Its box is
    their mean, weighted by score; its mask are the pixels that have at least half of the weight (weighted boxes
    fusion, arXiv:1910.13302, carried over to masks); its score is the mean over the views of the best score in each,
    0 in a view that does not show it: an object that one view alone shows is an unsure one.

    The views must differ by flips before the letterbox, and by scale: predictions of a flipped photo come
    in the frame of that flipped photo at its original size, and are mirrored here. `meta_keys` of the
    pipeline need `flip` and `flip_direction`.

    Args:
        module: the detector, or its config.
        data_preprocessor: as in mmengine's `BaseTTAModel`; None takes the detector's.
        iou_threshold: overlap above which two boxes of one class are one object.
        max_per_img: instances kept per image.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        data_preprocessor: dict | nn.Module | None = None,
        *,
        iou_threshold: float = 0.6,
        max_per_img: int = 100,
    ) -> None:
        super().__init__(module, data_preprocessor)
        self.iou_threshold = iou_threshold
        self.max_per_img = max_per_img

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list:
        """One sample per image out of the samples of its views."""
        return [self._merge_views(views) for views in data_samples_list]

    def _merge_views(self, views: Sequence[DetDataSample]) -> DetDataSample:
        turned = [unflip(view.pred_instances, view.metainfo) for view in views]
        result = views[0].clone()
        result.pred_instances = self._average(turned)
        return result

    def _average(self, views: Sequence[InstanceData]) -> InstanceData:
        """Findings of all views in one frame, to objects with the best score first."""
        bboxes = torch.cat([view.bboxes for view in views])
        scores = torch.cat([view.scores for view in views])
        labels = torch.cat([view.labels for view in views])
        view_of = torch.cat([scores.new_full((len(view),), i) for i, view in enumerate(views)])
        groups = self._group(bboxes, scores, labels)

        means = [_mean_score(scores[own], view_of[own], len(views)) for own in groups]
        ranking = sorted(range(len(groups)), key=lambda i: -means[i])[: self.max_per_img]
        groups = [groups[i] for i in ranking]
        weights = [scores[own] / scores[own].sum() for own in groups]
        means_of_boxes = [weight @ bboxes[own] for weight, own in zip(weights, groups, strict=True)]
        merged = InstanceData(
            bboxes=torch.stack(means_of_boxes) if groups else bboxes,
            scores=scores.new_tensor([means[i] for i in ranking]),
            # All of a group have one label.
            labels=labels[[int(own[0]) for own in groups]],
        )
        if 'masks' in views[0]:
            merged.masks = _vote_all([view.masks for view in views], scores, groups)
        return merged

    def _group(self, bboxes: Tensor, scores: Tensor, labels: Tensor) -> list[Tensor]:
        """Indices of the findings of each object, (n,) int64, the surest object first."""
        if not len(bboxes):  # mmcv's batched_nms fails on no boxes
            return []
        settings = dict(type='nms', iou_threshold=self.iou_threshold)
        _, surest = batched_nms(bboxes, scores, labels, settings)
        overlaps = bbox_overlaps(bboxes[surest], bboxes)
        overlaps[labels[surest, None] != labels] = 0
        overlaps[torch.arange(len(surest)), surest] = 2  # above any: each belongs to itself
        # What is none of the surest was suppressed by one of them.
        owner = overlaps.argmax(dim=0)
        return [(owner == index).nonzero()[:, 0] for index in range(len(surest))]


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


def _mean_score(scores: Tensor, view_of: Tensor, num_views: int) -> float:
    """Mean over the views of the best score in each, of the findings of one object."""
    best = [scores[view_of == view].max() for view in view_of.unique()]
    return float(sum(best)) / num_views


def _vote_all(masks: Sequence, weights: Tensor, groups: Sequence[Tensor]) -> Tensor | list[dict]:
    """One mask per object, of the kind that came in: of each view (N, H, W) bool or N run-length codes."""
    if isinstance(masks[0], Tensor):
        joined = torch.cat(list(masks))
        voted = [_vote(joined[own], weights[own]) for own in groups]
        return torch.stack(voted) if voted else joined
    codes = [code for view in masks for code in view]
    return [_vote_codes([codes[i] for i in own.tolist()], weights[own]) for own in groups]


def _vote(masks: Tensor, weights: Tensor) -> Tensor:
    """Pixels (H, W) bool that have at least half of the weight; masks (n, H, W), weights (n,)."""
    return torch.einsum('n,nhw->hw', weights, masks.to(weights)) >= weights.sum() / 2


def _vote_codes(codes: list[dict], weights: Tensor) -> dict:
    """The same for run-length codes; sums are kept where any of the masks is."""
    if len(codes) == 1:
        return codes[0]
    x, y, width, height = coco_mask.toBbox(coco_mask.merge(codes)).astype(int)
    window = np.s_[y : y + height, x : x + width]
    masks = np.stack([coco_mask.decode(code)[window] for code in codes])
    voted = np.zeros(codes[0]['size'], dtype=np.uint8, order='F')
    voted[window] = _vote(torch.from_numpy(masks), weights.cpu()).numpy()
    return coco_mask.encode(voted)
