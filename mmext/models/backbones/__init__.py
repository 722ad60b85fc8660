"""backbones of mmext."""

from mmext.models.backbones.csp import CSPBackbone

__all__ = ['CSPBackbone']
