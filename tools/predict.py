"""Finds objects in photos, or the class of every pixel; the same as `python -m mmext.tools.predict`."""

import sys

from mmext.tools.predict import main

if __name__ == '__main__':
    sys.exit(main())
