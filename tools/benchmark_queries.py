"""Measure Mask2Former's query decoder; the same as `python -m mmext.tools.benchmark_queries`."""

import sys

from mmext.tools.benchmark_queries import main

if __name__ == '__main__':
    sys.exit(main())
