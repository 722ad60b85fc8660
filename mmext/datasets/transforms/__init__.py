"""transforms of mmext."""

from mmext.datasets.transforms.color import HSV
from mmext.datasets.transforms.cropping import InstanceCrop
from mmext.datasets.transforms.geometry import LetterBox, RandomAffine
from mmext.datasets.transforms.loading import LoadImage
from mmext.datasets.transforms.mixing import MixUp, Mosaic
from mmext.datasets.transforms.pasting import FlipPaste, PasteInstances

__all__ = [
    'HSV',
    'FlipPaste',
    'InstanceCrop',
    'LetterBox',
    'LoadImage',
    'MixUp',
    'Mosaic',
    'PasteInstances',
    'RandomAffine',
]
