"""YOLO: detection and instance segmentation in one stage."""

from mmext.models.yolo.assigner import BatchTALAssigner
from mmext.models.yolo.attention_head import SegmentAttention
from mmext.models.yolo.enhanced_head import SegmentEnhanced
from mmext.models.yolo.head import Segment
from mmext.models.yolo.losses import BoxDistributionLoss, CIoULoss
from mmext.models.yolo.mask_losses import DenseMaskLoss, PointMaskLoss
from mmext.models.yolo.multi_scale_proto import MultiScaleProto
from mmext.models.yolo.neck import CSPPAN
from mmext.models.yolo.proto import Proto
from mmext.models.yolo.refine_loss import RefineLoss
from mmext.models.yolo.refiner import MaskRefiner
from mmext.models.yolo.semantic import SemanticBranch, SemanticLoss

__all__ = [
    'BatchTALAssigner',
    'BoxDistributionLoss',
    'CIoULoss',
    'CSPPAN',
    'DenseMaskLoss',
    'MaskRefiner',
    'MultiScaleProto',
    'PointMaskLoss',
    'Proto',
    'RefineLoss',
    'Segment',
    'SegmentAttention',
    'SegmentEnhanced',
    'SemanticBranch',
    'SemanticLoss',
]
