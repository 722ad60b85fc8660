"""mmext: modern vision systems as plugins for OpenMMLab.

Importing it is instant and pulls neither torch nor mmengine: it checks the installed stack, offers the torch ops
where mmcv has no compiled ones, and registers the package name for `_base_ = 'mmext::...'`.
"""

from mmext._plugin import name_packages
from mmext._stack import StackError, check_stack, show_without_traceback
from mmext.ops import install_fallback
from mmext.version import __version__

__all__ = ['__version__']

try:
    check_stack()
except StackError:
    show_without_traceback()
    raise
install_fallback()
name_packages()
