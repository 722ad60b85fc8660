"""Torch implementations of mmcv's compiled ops, offered as `mmcv._ext` where the compiled one is absent.

`install_fallback` appends a finder to the end of `sys.meta_path`: Python asks it for `mmcv._ext` only after
every real finder has found nothing, so a compiled extension always wins and nothing is imported before
somebody imports `mmcv.ops`.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

EXTENSION = 'mmcv._ext'


class _FallbackFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for `mmcv._ext` with the torch implementations of this package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != EXTENSION:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin='mmext.ops')

    def exec_module(self, module: ModuleType) -> None:
        def missing(name: str) -> object:
            if name.startswith('__'):
                raise AttributeError(name)

            def op(*args: object, **kwargs: object) -> None:
                raise NotImplementedError(f'mmcv op {name} has no torch fallback')

            return op

        module.__dict__['__getattr__'] = missing


def install_fallback() -> None:
    """Offer the torch ops as `mmcv._ext`; calling it twice changes nothing."""
    if not any(isinstance(finder, _FallbackFinder) for finder in sys.meta_path):
        sys.meta_path.append(_FallbackFinder())
