"""Mattes of methods that learn nothing; the same as `python -m mmext.tools.baseline_mattes`."""

import sys

from mmext.tools.baseline_mattes import main

if __name__ == '__main__':
    sys.exit(main())
