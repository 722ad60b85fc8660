"""Convert a checkpoint of another project; the code is `mmext.tools.convert_weights`."""

import sys

from mmext.tools.convert_weights import main

if __name__ == '__main__':
    sys.exit(main())
