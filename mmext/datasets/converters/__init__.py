"""Converters from raw data sets to COCO: name on the command line -> class. The next format is one file."""

from mmext.datasets.converters.magnetic_tile import MagneticTile
from mmext.datasets.converters.mask_png import MaskPng
from mmext.datasets.converters.records import Converter
from mmext.datasets.converters.voc import Voc
from mmext.datasets.converters.yolo_txt import YoloTxt

CONVERTERS: dict[str, type[Converter]] = {
    'magnetic_tile': MagneticTile,
    'voc': Voc,
    'yolo': YoloTxt,
    'masks': MaskPng,
}
