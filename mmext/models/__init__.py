"""models of mmext."""

from mmext.models import backbones, common, yolo

__all__ = ['backbones', 'common', 'yolo']
