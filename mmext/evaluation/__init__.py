"""Metrics of mmext and their arithmetic."""

from .dump import DumpInstanceResults
from .instances import InstanceCocoMetric
from .localizer_metric import LocalizerMetric
from .matte_metric import MatteMetric

__all__ = ['DumpInstanceResults', 'InstanceCocoMetric', 'LocalizerMetric', 'MatteMetric']
