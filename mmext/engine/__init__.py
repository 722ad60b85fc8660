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

__all__ = [
    'AverageBuffersHook',
    'CPUAmpOptimWrapper',
    'ChannelsLastHook',
    'CheckpointReportHook',
    'CloseMosaicHook',
    'PreflightHook',
    'ProgressBarHook',
    'ReproducibleHook',
    'StepEMAHook',
    'YOLOOptimWrapperConstructor',
    'YOLOWarmupHook',
]
