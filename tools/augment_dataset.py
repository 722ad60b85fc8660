"""Enlarges a data set of single objects; the same as `python -m mmext.tools.augment_dataset`."""

import sys

from mmext.tools.augment_dataset import main

if __name__ == '__main__':
    sys.exit(main())
