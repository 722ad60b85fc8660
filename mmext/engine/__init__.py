"""Training engine of mmext: hooks, optimizer set-up, distribution, checkpoints, preflight."""

from .hooks import (
    AverageBuffersHook,
    ChannelsLastHook,
    CheckpointReportHook,
    CloseMosaicHook,
    PreflightHook,
    ProgressBarHook,
    ReproducibleHook,
    StepEMAHook,
    YOLOWarmupHook,
)
from .optim import CPUAmpOptimWrapper, YOLOOptimWrapperConstructor
from .schedulers import FlatCosineLR

__all__ = [
    'AverageBuffersHook',
    'CPUAmpOptimWrapper',
    'ChannelsLastHook',
    'CheckpointReportHook',
    'CloseMosaicHook',
    'FlatCosineLR',
    'PreflightHook',
    'ProgressBarHook',
    'ReproducibleHook',
    'StepEMAHook',
    'YOLOOptimWrapperConstructor',
    'YOLOWarmupHook',
]
