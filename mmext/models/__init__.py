"""models of mmext."""

from mmext.models import backbones, common, deim, yolo

__all__ = ['backbones', 'common', 'deim', 'yolo']
