"""mmext: modern vision systems as plugins for OpenMMLab."""

from mmext.ops import install_fallback

__version__ = '0.1.0'

install_fallback()
