"""transforms of mmext."""
