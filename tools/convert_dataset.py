"""Convert a raw data set to COCO; the code is `mmext.tools.convert_dataset`."""

import sys

from mmext.tools.convert_dataset import main

if __name__ == '__main__':
    sys.exit(main())
