"""Mask2Former's query decoder for instances (mmdet) and semantics (mmseg): same parameters and numbers, less work."""

from mmext.models.query_seg.fusion_head import QueryFusionHead
from mmext.models.query_seg.head import FastMask2FormerHead
from mmext.models.query_seg.semantic_head import FastMask2FormerSegHead

__all__ = ['FastMask2FormerHead', 'FastMask2FormerSegHead', 'QueryFusionHead']
