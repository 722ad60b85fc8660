"""Imports mmext right before mmengine, in every Python of an environment that mmext is installed in.

Scripts of others (mmdet's test.py) import `mmcv.ops` or parse a config's `_base_` before they look at its
`custom_imports`; mmext must be there by then. `_mmext_startup.pth` beside this file has Python import it at each start,
so it imports nothing itself: it leaves one finder, which waits for the name `mmengine`.
"""

import sys


class _BeforeMMEngine:
    """Finds nothing; being asked for mmengine, which happens before it is loaded, it imports mmext."""

    def __init__(self):
        self.is_waiting = True

    def find_spec(self, fullname, path=None, target=None):
        if fullname == 'mmengine' and self.is_waiting:
            # It stays in `sys.meta_path`, which is being walked through; a second call changes nothing.
            self.is_waiting = False
            try:
                import mmext  # noqa: F401
            # mmext is gone, or its stack guard objects, by a warning that became an error, too: no reason to stop
            # a program that may not even use it. Whoever imports mmext gets the message.
            except Exception:
                pass
        return None


sys.meta_path.insert(0, _BeforeMMEngine())
