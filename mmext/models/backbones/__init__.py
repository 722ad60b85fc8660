"""backbones of mmext."""
