"""Training hooks of mmext."""

from .average_buffers import AverageBuffersHook
from .channels_last import ChannelsLastHook
from .checkpoint_report import CheckpointReportHook
from .close_mosaic import CloseMosaicHook
from .ema import StepEMAHook
from .preflight import PreflightHook
from .progress import ProgressBarHook
from .reproducible import ReproducibleHook
from .warmup import YOLOWarmupHook

__all__ = [
    'AverageBuffersHook',
    'ChannelsLastHook',
    'CheckpointReportHook',
    'CloseMosaicHook',
    'PreflightHook',
    'ProgressBarHook',
    'ReproducibleHook',
    'StepEMAHook',
    'YOLOWarmupHook',
]
