"""Draws the curves of a training; the same as `python -m mmext.tools.plot_curves`."""

import sys

from mmext.tools.plot_curves import main

if __name__ == '__main__':
    sys.exit(main())
