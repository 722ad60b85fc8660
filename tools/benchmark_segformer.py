"""Measure SegFormer's forward pass; the same as `python -m mmext.tools.benchmark_segformer`."""

import sys

from mmext.tools.benchmark_segformer import main

if __name__ == '__main__':
    sys.exit(main())
