"""Looks at a data set of single objects; the same as `python -m mmext.tools.explore_dataset`."""

import sys

from mmext.tools.explore_dataset import main

if __name__ == '__main__':
    sys.exit(main())
