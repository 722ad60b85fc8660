"""Splits a CSV of single objects; the same as `python -m mmext.tools.split_csv`."""

import sys

from mmext.tools.split_csv import main

if __name__ == '__main__':
    sys.exit(main())
