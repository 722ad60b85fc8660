"""Metrics of mmext and their arithmetic."""

from .dump import DumpInstanceResults
from .instances import InstanceCocoMetric

__all__ = ['DumpInstanceResults', 'InstanceCocoMetric']
