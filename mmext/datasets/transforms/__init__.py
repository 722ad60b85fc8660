"""transforms of mmext."""

from mmext.datasets.transforms.color import HSV
from mmext.datasets.transforms.cropping import InstanceCrop
from mmext.datasets.transforms.geometry import LetterBox, RandomAffine
from mmext.datasets.transforms.grid_mosaic import GridMosaic, UnlessMosaic
from mmext.datasets.transforms.iou_crop import IoUCrop
from mmext.datasets.transforms.loading import LoadImage
from mmext.datasets.transforms.mixing import MixUp, Mosaic
from mmext.datasets.transforms.pasting import FlipPaste, PasteInstances
from mmext.datasets.transforms.photometric import PhotometricDistortion
from mmext.datasets.transforms.sanitizing import DropSmallObjects
from mmext.datasets.transforms.windows import InEpochs
from mmext.datasets.transforms.zoom import ZoomOut

__all__ = [
    'HSV',
    'DropSmallObjects',
    'FlipPaste',
    'GridMosaic',
    'InEpochs',
    'InstanceCrop',
    'IoUCrop',
    'LetterBox',
    'LoadImage',
    'MixUp',
    'Mosaic',
    'PasteInstances',
    'PhotometricDistortion',
    'RandomAffine',
    'UnlessMosaic',
    'ZoomOut',
]
