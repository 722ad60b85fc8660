"""Tests of mmext.tools."""
