"""models of mmext."""

from mmext.models import backbones, yolo

__all__ = ['backbones', 'yolo']
