"""Score alpha files; the same as `python -m mmext.tools.eval_mattes`."""

import sys

from mmext.tools.eval_mattes import main

if __name__ == '__main__':
    sys.exit(main())
