"""Time the torch ops; the same as `python -m mmext.tools.benchmark_ops`."""

import sys

from mmext.tools.benchmark_ops import main

if __name__ == '__main__':
    sys.exit(main())
