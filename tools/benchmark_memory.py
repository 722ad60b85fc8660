"""Measure the memory of training; the same as `python -m mmext.tools.benchmark_memory`."""

import sys

from mmext.tools.benchmark_memory import main

if __name__ == '__main__':
    sys.exit(main())
