"""See `mmext.tools.demo`."""

import sys

from mmext.tools.demo import main

if __name__ == '__main__':
    sys.exit(main())
