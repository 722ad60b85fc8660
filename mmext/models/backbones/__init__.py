"""backbones of mmext."""

from mmext.models.backbones.csp import CSPBackbone
from mmext.models.backbones.dinov3_sta import DINOv3STA
from mmext.models.backbones.hgnetv2 import HGNetv2

__all__ = ['CSPBackbone', 'DINOv3STA', 'HGNetv2']
