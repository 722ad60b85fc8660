"""Trains a model; the same as `python -m mmext.tools.train`."""

import sys

from mmext.tools.train import main

if __name__ == '__main__':
    sys.exit(main())
