"""Scores a checkpoint; the same as `python -m mmext.tools.test`."""

import sys

from mmext.tools.test import main

if __name__ == '__main__':
    sys.exit(main())
