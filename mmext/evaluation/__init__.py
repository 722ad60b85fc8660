"""Metrics of mmext and their arithmetic."""

from .dump import DumpInstanceResults

__all__ = ['DumpInstanceResults']
