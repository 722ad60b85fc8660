"""Ground truth from data samples to tensors, and a warning for objects that no box can hold. Part of the adapter."""

from collections.abc import Sequence

import torch
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from torch import Tensor

from mmext.models.yolo.criterion import GroundTruth
from mmext.models.yolo.targets import pool_batch_masks


def collect_truth(
    batch_gt_instances: Sequence[InstanceData], *, input_size: tuple[int, int], mask_stride: int
) -> GroundTruth:
    """Instances of a batch to tensors on the device of the boxes.

    Args:
        batch_gt_instances: per image `labels` (g,), `bboxes` (g, 4) xyxy in pixels of the network input, `masks`
            BitmapMasks or PolygonMasks of the network input's size.
        input_size: (height, width) of the network input.
        mask_stride: pixels of the network input per pixel of the masks that are returned.

    Raises:
        ValueError: there are no masks, or masks of another size.
    """
    if not all('masks' in gt for gt in batch_gt_instances):
        raise ValueError(
            'Segment: got ground truth without masks, expected BitmapMasks or PolygonMasks. '
            'Load them with LoadAnnotations(with_bbox=True, with_mask=True).'
        )
    bboxes = [gt.bboxes.float() for gt in batch_gt_instances]
    masks = pool_batch_masks([gt.masks for gt in batch_gt_instances], input_size, mask_stride)
    return GroundTruth(
        labels=[gt.labels for gt in batch_gt_instances],
        bboxes=bboxes,
        masks=masks.to(bboxes[0].device, non_blocking=True),
    )


class BoxLengthCheck:
    """Says once that an object is longer than any box the head can predict.

    Args:
        reg_max: bins of a side's distance distribution.
        stride: pixels of the network input per cell of the coarsest level.
    """

    def __init__(self, reg_max: int, stride: int) -> None:
        self.reg_max = reg_max
        self.longest = 2 * (reg_max - 1) * stride
        self._warned = False

    def __call__(self, bboxes: Sequence[Tensor], input_size: tuple[int, int]) -> None:
        """Look at the boxes (g, 4) xyxy of each image of a batch, in pixels of its (height, width)."""
        if self._warned or max(input_size) <= self.longest:
            return  # no object can be too long, and the device need not be asked
        boxes = torch.cat(list(bboxes))
        sides = boxes[:, 2:] - boxes[:, :2]
        if (sides > self.longest).any():
            self._warned = True
            MMLogger.get_current_instance().warning(
                f'Segment: an object is {sides.max():.0f} pixels long in the network input, but with '
                f'reg_max={self.reg_max} no box is longer than {self.longest}: it will be cut. Raise reg_max or '
                'shrink the input.'
            )
