"""Training hooks of mmext."""

from .average_buffers import AverageBuffersHook
from .channels_last import ChannelsLastHook
from .checkpoint_report import CheckpointReportHook
from .class_weights import ClassWeightHook
from .close_mosaic import CloseMosaicHook
from .ema import StepEMAHook
from .epoch_windows import EpochWindowsHook
from .finite_loss import FiniteLossHook
from .preflight import PreflightHook
from .progress import ProgressBarHook
from .reproducible import ReproducibleHook
from .restore_best import RestoreBestHook
from .stage_two import StageTwoHook
from .visualization import InstanceVisualizationHook
from .vocabulary import VocabularyHook
from .warmup import YOLOWarmupHook

__all__ = [
    'AverageBuffersHook',
    'ChannelsLastHook',
    'CheckpointReportHook',
    'ClassWeightHook',
    'CloseMosaicHook',
    'EpochWindowsHook',
    'FiniteLossHook',
    'InstanceVisualizationHook',
    'PreflightHook',
    'ProgressBarHook',
    'ReproducibleHook',
    'RestoreBestHook',
    'StageTwoHook',
    'StepEMAHook',
    'VocabularyHook',
    'YOLOWarmupHook',
]
