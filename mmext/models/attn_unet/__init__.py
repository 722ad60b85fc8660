"""Attention U-Net: background removal with soft alpha."""

from mmext.models.attn_unet.gate import AttentionGate, SameSizeAttentionGate
from mmext.models.attn_unet.head import AttentionUNetHead
from mmext.models.attn_unet.losses import (
    AlphaEdgeLoss,
    LaplacianPyramidLoss,
    MatteBCELoss,
    MatteDiceLoss,
)
from mmext.models.attn_unet.matting import MatteEncoderDecoder
from mmext.models.attn_unet.perceptual import PerceptualLoss
from mmext.models.attn_unet.preprocessor import MattePreprocessor
from mmext.models.attn_unet.tta import MatteTTAModel

__all__ = [
    'AlphaEdgeLoss',
    'AttentionGate',
    'AttentionUNetHead',
    'LaplacianPyramidLoss',
    'MatteBCELoss',
    'MatteDiceLoss',
    'MatteEncoderDecoder',
    'MattePreprocessor',
    'MatteTTAModel',
    'PerceptualLoss',
    'SameSizeAttentionGate',
]
