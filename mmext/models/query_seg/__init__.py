"""Queries become masks: Mask2Former for instances (mmdet) and semantics (mmseg) in less work, and a decoder on any neck."""

from mmext.models.query_seg.fusion_head import QueryFusionHead
from mmext.models.query_seg.head import FastMask2FormerHead
from mmext.models.query_seg.neck_head import QuerySegHead
from mmext.models.query_seg.semantic_head import FastMask2FormerSegHead
from mmext.models.query_seg.tta import ClassScoreTTAModel

__all__ = [
    'ClassScoreTTAModel',
    'FastMask2FormerHead',
    'FastMask2FormerSegHead',
    'QueryFusionHead',
    'QuerySegHead',
]
