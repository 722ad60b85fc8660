"""Latency and memory of cut-outs; the same as `python -m mmext.tools.benchmark_background`."""

import sys

from mmext.tools.benchmark_background import main

if __name__ == '__main__':
    sys.exit(main())
