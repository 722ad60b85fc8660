"""Synthetic pictures with exact truth: to try out, to test, to train on before real photos.

Defects with masks in three presets: `METAL` (brushed metal, the classes of the Spanish defect list), `TILE` (grey
magnetic tiles) and `LOOK_ALIKE` (brushed metal, classes in pairs that look alike). Portraits with soft mattes: portraits.py.
"""

from mmext.datasets.synthetic.generator import SyntheticImage, generate_image, write_dataset
from mmext.datasets.synthetic.portraits import Portrait, generate_portrait, write_portraits
from mmext.datasets.synthetic.presets import (
    LOOK_ALIKE,
    METAL,
    NORMAL,
    PRESETS,
    TILE,
    DefectClass,
    Preset,
    crowded,
)
from mmext.datasets.synthetic.semantic import write_semantic

__all__ = [
    'LOOK_ALIKE',
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
    'write_semantic',
]
