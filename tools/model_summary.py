"""Lists layers and parameters of a model; the same as `python -m mmext.tools.model_summary`."""

import sys

from mmext.tools.model_summary import main

if __name__ == '__main__':
    sys.exit(main())
