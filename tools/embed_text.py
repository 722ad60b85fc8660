"""Writes text embeddings of classes; the same as `python -m mmext.tools.embed_text`."""

import sys

from mmext.tools.embed_text import main

if __name__ == '__main__':
    sys.exit(main())
