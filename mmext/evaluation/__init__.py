"""Metrics of mmext and their arithmetic."""

from .dump import DumpInstanceResults
from .instances import InstanceCocoMetric
from .localizer_metric import LocalizerMetric
from .matte_metric import MatteMetric
from .semantic_metric import SemanticMetric

__all__ = [
    'DumpInstanceResults',
    'InstanceCocoMetric',
    'LocalizerMetric',
    'MatteMetric',
    'SemanticMetric',
]
