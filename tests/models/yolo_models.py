"""Small configs and samples for the tests of the YOLO head."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CHANNELS = (16, 24, 32)
STRIDES = (8, 16, 32)


def head_config(num_classes: int = 3, mask_loss: str = 'DenseMaskLoss', **settings: object) -> dict:
    """Config of a complete narrow `Segment`, `settings` overwrite."""
    return dict(
        type='mmext.Segment',
        num_classes=num_classes,
        in_channels=list(CHANNELS),
        num_prototypes=4,
        proto=dict(type='mmext.Proto', hidden_channels=8),
        loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
        loss_bbox=dict(type='mmext.CIoULoss', loss_weight=7.5),
        loss_dfl=dict(type='mmext.BoxDistributionLoss', loss_weight=1.5),
        loss_mask=dict(type=f'mmext.{mask_loss}', loss_weight=7.5),
        train_cfg=dict(assigner=dict(type='mmext.BatchTALAssigner')),
        test_cfg=dict(score_thr=0.001, max_per_img=100),
    ) | dict(settings)


def features(
    height: int, width: int, batch: int = 2, channels: Sequence[int] = CHANNELS
) -> list[torch.Tensor]:
    """Random levels of a network input of height x width."""
    return [
        torch.randn(batch, c, height // stride, width // stride)
        for c, stride in zip(channels, STRIDES, strict=True)
    ]


def ellipses(bboxes: torch.Tensor, height: int, width: int, scale: int = 1) -> np.ndarray:
    """The ellipse inscribed in each box (N, 4) xyxy, drawn at pixel centres of a map `scale` times smaller.

    Returns:
        (N, height / scale, width / scale) uint8 in {0, 1}.
    """
    x = (torch.arange(width // scale) + 0.5) * scale
    y = (torch.arange(height // scale) + 0.5) * scale
    x1, y1, x2, y2 = bboxes[:, :, None, None].unbind(1)
    across = (2 * x - x1 - x2) / (x2 - x1)
    down = (2 * y[:, None] - y1 - y2) / (y2 - y1)
    return (across**2 + down**2 <= 1).numpy().astype(np.uint8)


def instances(
    bboxes: Sequence[Sequence[float]], labels: Sequence[int], height: int, width: int
) -> InstanceData:
    """Ground truth of one image: boxes xyxy, labels, and the ellipses in the boxes as masks."""
    boxes = torch.tensor(bboxes, dtype=torch.float32).reshape(-1, 4)
    masks = BitmapMasks(ellipses(boxes, height, width), height, width)
    return InstanceData(bboxes=boxes, labels=torch.tensor(labels, dtype=torch.long), masks=masks)


def data_sample(gt: InstanceData, height: int, width: int, **meta: object) -> DetDataSample:
    """A sample whose original image is the network input, unless `meta` says otherwise."""
    size = (height, width)
    sample = DetDataSample(
        metainfo=dict(ori_shape=size, img_shape=size, scale_factor=(1.0, 1.0)) | meta
    )
    sample.gt_instances = gt
    return sample


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result
