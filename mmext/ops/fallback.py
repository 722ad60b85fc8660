"""Import hook that answers for `mmcv._ext` where mmcv was installed without its compiled ops.

The hook stands at the end of `sys.meta_path`: Python asks it only after every real finder has found
nothing, so a compiled extension always wins. Torch and the ops are imported when `mmcv._ext` is,
which is when somebody imports `mmcv.ops`.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

EXTENSION = 'mmcv._ext'
COMPILE_COMMAND = (
    'pip install --no-cache-dir --force-reinstall --no-build-isolation --no-deps '
    '"onedl-mmcv>=2.3.6,<2.4"'
)


class FallbackFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads `mmcv._ext`: the torch ops of mmext, and an error for every other op."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != EXTENSION:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin='mmext.ops')

    def exec_module(self, module: ModuleType) -> None:
        # By name, not by an import statement: this file must stay free of torch.
        module.__dict__.update(importlib.import_module('mmext.ops.extension').OPS)
        module.__dict__['__getattr__'] = missing_op


def missing_op(name: str) -> Callable[..., NoReturn]:
    """A stand-in for an op without torch implementation; it raises when it is called.

    It cannot raise earlier: mmcv looks up the ops of every family while `mmcv.ops` is imported.

    Raises:
        AttributeError: for names like `__path__`, which the import system probes.
    """
    if name.startswith('__'):
        raise AttributeError(f'module {EXTENSION!r} has no attribute {name!r}')

    def op(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f'mmcv was installed without compiled ops, and mmext has no torch implementation of '
            f'{name!r}. To compile mmcv (a C++ compiler and about 20 minutes), run:\n'
            f'    {COMPILE_COMMAND}'
        )

    op.__name__ = name
    return op


def install_fallback() -> None:
    """Offer the torch ops as `mmcv._ext`; calling it twice changes nothing."""
    if not any(isinstance(finder, FallbackFinder) for finder in sys.meta_path):
        sys.meta_path.append(FallbackFinder())
