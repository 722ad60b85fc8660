"""backbones of mmext."""

from mmext.models.backbones.csp import CSPBackbone
from mmext.models.backbones.dinov3_sta import DINOv3STA
from mmext.models.backbones.hgnetv2 import HGNetv2
from mmext.models.backbones.localizer_cnn import LocalizerCNN
from mmext.models.backbones.mit import MixVisionTransformer
from mmext.models.backbones.resnet_stem import ResNetStem
from mmext.models.backbones.transformers_backbone import TransformersBackbone

__all__ = [
    'CSPBackbone',
    'DINOv3STA',
    'HGNetv2',
    'LocalizerCNN',
    'MixVisionTransformer',
    'ResNetStem',
    'TransformersBackbone',
]
