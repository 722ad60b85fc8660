"""transforms of mmext."""

from mmext.datasets.transforms.albumentations import Albumentations
from mmext.datasets.transforms.alpha import AlphaToSegMap, LoadAlpha, PackMatteInputs
from mmext.datasets.transforms.alpha_geometry import (
    AlphaCrop,
    AlphaFlip,
    AlphaResize,
    AlphaRotate90,
    AlphaShiftScaleRotate,
)
from mmext.datasets.transforms.color import HSV
from mmext.datasets.transforms.composite import CompositeBackground
from mmext.datasets.transforms.cropping import InstanceCrop
from mmext.datasets.transforms.degrading import BrightnessContrast, RandomBlur, RandomJPEG
from mmext.datasets.transforms.geometry import LetterBox, RandomAffine
from mmext.datasets.transforms.grid_mosaic import GridMosaic, UnlessMosaic
from mmext.datasets.transforms.iou_crop import IoUCrop
from mmext.datasets.transforms.label_crop import LabelCrop
from mmext.datasets.transforms.loading import LoadImage
from mmext.datasets.transforms.mixing import MixUp, Mosaic
from mmext.datasets.transforms.pasting import FlipPaste, PasteInstances
from mmext.datasets.transforms.photometric import PhotometricDistortion
from mmext.datasets.transforms.sanitizing import DropSmallObjects
from mmext.datasets.transforms.windows import InEpochs
from mmext.datasets.transforms.zoom import ZoomOut

__all__ = [
    'HSV',
    'Albumentations',
    'AlphaCrop',
    'AlphaFlip',
    'AlphaResize',
    'AlphaRotate90',
    'AlphaShiftScaleRotate',
    'AlphaToSegMap',
    'BrightnessContrast',
    'CompositeBackground',
    'DropSmallObjects',
    'FlipPaste',
    'GridMosaic',
    'InEpochs',
    'InstanceCrop',
    'IoUCrop',
    'LabelCrop',
    'LetterBox',
    'LoadAlpha',
    'LoadImage',
    'MixUp',
    'Mosaic',
    'PackMatteInputs',
    'PasteInstances',
    'PhotometricDistortion',
    'RandomAffine',
    'RandomBlur',
    'RandomJPEG',
    'UnlessMosaic',
    'ZoomOut',
]
