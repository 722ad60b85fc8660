"""Converters from raw data sets to COCO, to images with mattes, or with maps of classes: name on the command line -> class.

The next format is one file.
"""

from mmext.datasets.converters.face_mask import FaceMask
from mmext.datasets.converters.magnetic_tile import MagneticTile
from mmext.datasets.converters.mask_png import MaskPng
from mmext.datasets.converters.person_classes import PersonClasses
from mmext.datasets.converters.person_parsing import PersonParsing
from mmext.datasets.converters.records import Converter
from mmext.datasets.converters.voc import Voc
from mmext.datasets.converters.yolo_txt import YoloTxt

CONVERTERS: dict[str, type[Converter]] = {
    'face_mask': FaceMask,
    'magnetic_tile': MagneticTile,
    'voc': Voc,
    'yolo': YoloTxt,
    'masks': MaskPng,
}
# Their images are `MatteRecord`s, which `mattes.write_mattes` writes.
MATTE_CONVERTERS: dict[str, type[Converter]] = {
    'person_parsing': PersonParsing,
}
# With --semantic. Their images are `LabelRecord`s, or have objects that `label_maps.draw_label_maps` draws.
SEMANTIC_CONVERTERS: dict[str, type[Converter]] = {
    'magnetic_tile': MagneticTile,
    'person_parsing': PersonClasses,
    'yolo': YoloTxt,
}
