"""Compare detectors; the same as `python -m mmext.tools.compare`."""

import sys

from mmext.tools.compare import main

if __name__ == '__main__':
    sys.exit(main())
