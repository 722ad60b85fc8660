"""Torch implementations of mmcv's compiled ops, offered as `mmcv._ext` where that is absent.

`fallback` holds the import hook, `extension` the list of ops, and each family of ops has a file of
its own. Importing this package pulls in no torch: the ops are loaded when somebody imports
`mmcv.ops`.
"""

from mmext.ops.fallback import install_fallback

__all__ = ['install_fallback']
