"""Synthetic pictures with exact truth: to try out, to test, to train on before real photos.

Defects with masks in two presets: `METAL` (brushed metal, the classes of the Spanish defect list) and `TILE`
(grey magnetic tiles). Portraits with soft mattes: portraits.py.
"""

from mmext.datasets.synthetic.generator import SyntheticImage, generate_image, write_dataset
from mmext.datasets.synthetic.portraits import Portrait, generate_portrait, write_portraits
from mmext.datasets.synthetic.presets import (
    METAL,
    NORMAL,
    PRESETS,
    TILE,
    DefectClass,
    Preset,
    crowded,
)

__all__ = [
    'METAL',
    'NORMAL',
    'PRESETS',
    'TILE',
    'DefectClass',
    'Portrait',
    'Preset',
    'SyntheticImage',
    'crowded',
    'generate_image',
    'generate_portrait',
    'write_dataset',
    'write_portraits',
]
