"""Generate synthetic defects; the code is `mmext.tools.make_synthetic`."""

import sys

from mmext.tools.make_synthetic import main

if __name__ == '__main__':
    sys.exit(main())
