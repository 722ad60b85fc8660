"""What users call from Python."""

from mmext.apis.background import BackgroundRemover
from mmext.apis.cutout import Cutout
from mmext.apis.inferencer import InstanceInferencer, Prediction
from mmext.apis.model import init_model, init_tta_model
from mmext.apis.semantic import SemanticSegmenter
from mmext.apis.semantic_result import Segmentation
from mmext.apis.semantic_windows import Slide
from mmext.apis.tiling import Tiling

__all__ = [
    'BackgroundRemover',
    'Cutout',
    'InstanceInferencer',
    'Prediction',
    'Segmentation',
    'SemanticSegmenter',
    'Slide',
    'Tiling',
    'init_model',
    'init_tta_model',
]
