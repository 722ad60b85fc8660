"""YOLO: detection and instance segmentation in one stage."""

from mmext.models.yolo.assigner import BatchTALAssigner
from mmext.models.yolo.head import Segment
from mmext.models.yolo.losses import BoxDistributionLoss, CIoULoss
from mmext.models.yolo.mask_losses import DenseMaskLoss, PointMaskLoss
from mmext.models.yolo.neck import CSPPAN
from mmext.models.yolo.proto import Proto

__all__ = [
    'CSPPAN',
    'BatchTALAssigner',
    'BoxDistributionLoss',
    'CIoULoss',
    'DenseMaskLoss',
    'PointMaskLoss',
    'Proto',
    'Segment',
]
