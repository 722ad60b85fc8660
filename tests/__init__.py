"""Tests of mmext; they mirror the package."""
