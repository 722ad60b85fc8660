"""Training engine of mmext: hooks, optimizer set-up, distribution, checkpoints, preflight."""

from .hooks import (
    AverageBuffersHook,
    ChannelsLastHook,
    CheckpointReportHook,
    CloseMosaicHook,
    EpochWindowsHook,
    FiniteLossHook,
    InstanceVisualizationHook,
    PreflightHook,
    ProgressBarHook,
    ReproducibleHook,
    StageTwoHook,
    StepEMAHook,
    YOLOWarmupHook,
)
from .optim import CPUAmpOptimWrapper, YOLOOptimWrapperConstructor
from .pattern_groups import PatternOptimWrapperConstructor
from .schedulers import FlatCosineLR

__all__ = [
    'AverageBuffersHook',
    'CPUAmpOptimWrapper',
    'ChannelsLastHook',
    'CheckpointReportHook',
    'CloseMosaicHook',
    'EpochWindowsHook',
    'FiniteLossHook',
    'FlatCosineLR',
    'InstanceVisualizationHook',
    'PatternOptimWrapperConstructor',
    'PreflightHook',
    'ProgressBarHook',
    'ReproducibleHook',
    'StageTwoHook',
    'StepEMAHook',
    'YOLOOptimWrapperConstructor',
    'YOLOWarmupHook',
]
