"""Reports what the texts of a DEIM bring, class by class; the same as `python -m mmext.tools.analyze_fusion`."""

import sys

from mmext.tools.analyze_fusion import main

if __name__ == '__main__':
    sys.exit(main())
