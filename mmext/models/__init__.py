"""models of mmext."""

from mmext.models import attn_unet, backbones, common, deim, localizer, yolo

__all__ = ['attn_unet', 'backbones', 'common', 'deim', 'localizer', 'yolo']
