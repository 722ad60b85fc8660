"""Synthetic defects with exact masks: to try out, to test, to train on before real photos.

Two presets: `METAL` (brushed metal, the classes of the Spanish defect list) and `TILE` (grey
magnetic tiles).
"""

from mmext.datasets.synthetic.generator import SyntheticImage, generate_image, write_dataset
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
    'Preset',
    'SyntheticImage',
    'crowded',
    'generate_image',
    'write_dataset',
]
