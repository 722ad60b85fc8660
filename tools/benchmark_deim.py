"""Measure DEIMv2 in its forms; the same as `python -m mmext.tools.benchmark_deim`."""

import sys

from mmext.tools.benchmark_deim import main

if __name__ == '__main__':
    sys.exit(main())
