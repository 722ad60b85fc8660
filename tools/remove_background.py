"""Cuts the foreground out of photos and videos; the same as `python -m mmext.tools.remove_background`."""

import sys

from mmext.tools.remove_background import main

if __name__ == '__main__':
    sys.exit(main())
