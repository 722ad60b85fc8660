"""Makes mmengine know mmext as a package, so that `_base_ = 'mmext::yolo/...py'` works in anybody's config.

mmengine keeps a table from import names to distribution names (`MODULE2PACKAGE`) and refuses every package that is
not in it. The table must be extended before a config is parsed, but importing mmengine takes seconds and pulls
torch, which `import mmext` must not. So the entries are added right after mmengine's module is first imported.

Scripts of others (mmdet's train.py) parse a config's `_base_` before they import its `custom_imports`; by then mmext
has been imported by what it leaves at Python's start (`startup/_mmext_startup.py`). Where Python runs no .pth files (a
checkout on PYTHONPATH, `pip install --target`), mmengine stops with "mmengine does not support to load mmext config":
there, `python -m mmext.tools.train` runs such configs.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

TABLE_MODULE = 'mmengine.config.utils'
PACKAGES = {
    'mmext': 'mmext',
    # onedl-mmengine still names upstream's distribution here, so `mmseg::...` ends in "not installed".
    'mmseg': 'onedl-mmsegmentation',
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds mmengine's module as Python would, and lets its loader add our packages once it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != TABLE_MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _add_packages_after(spec.loader)
        return spec


def name_packages() -> None:
    """Enter our packages into mmengine's table: now if it is loaded, else as soon as it is."""
    loaded = sys.modules.get(TABLE_MODULE)
    if loaded is not None:
        loaded.MODULE2PACKAGE.update(PACKAGES)
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _add_packages_after(loader: importlib.abc.Loader) -> None:
    """Extend `exec_module` of this one loader (each import has its own, so nobody else is affected)."""
    run = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        run(module)
        module.__dict__['MODULE2PACKAGE'].update(PACKAGES)

    loader.exec_module = exec_module  # type: ignore[method-assign]
