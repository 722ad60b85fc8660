"""models of mmext."""

from mmext.models import attn_unet, backbones, common, deim, localizer, query_seg, segformer, yolo

__all__ = [
    'attn_unet',
    'backbones',
    'common',
    'deim',
    'localizer',
    'query_seg',
    'segformer',
    'yolo',
]
