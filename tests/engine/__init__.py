"""Tests of mmext.engine."""
