"""datasets of mmext."""

from mmext.datasets.instances import InstanceDataset
from mmext.datasets.localization import LocalizationDataset
from mmext.datasets.mattes import MatteDataset
from mmext.datasets.samplers import ClassBalancedSampler
from mmext.datasets.transforms import (
    HSV,
    FlipPaste,
    InstanceCrop,
    LetterBox,
    LoadImage,
    MixUp,
    Mosaic,
    PasteInstances,
    RandomAffine,
)

__all__ = [
    'ClassBalancedSampler',
    'HSV',
    'FlipPaste',
    'InstanceCrop',
    'InstanceDataset',
    'LetterBox',
    'LoadImage',
    'LocalizationDataset',
    'MatteDataset',
    'MixUp',
    'Mosaic',
    'PasteInstances',
    'RandomAffine',
]
