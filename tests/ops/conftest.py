"""Fixture that puts the torch ops behind `mmcv.ops`, also where mmcv has compiled ones."""

import importlib
import sys
from types import ModuleType

import pytest

from mmext.ops.fallback import EXTENSION, FallbackFinder


@pytest.fixture
def torch_ops(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that mmext offers as `mmcv._ext`, behind all functions of `mmcv.ops`."""
    importlib.import_module('mmcv.ops')
    extension = ModuleType(EXTENSION)
    FallbackFinder().exec_module(extension)
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', extension)
    return extension
