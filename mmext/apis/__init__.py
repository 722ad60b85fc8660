"""apis of mmext."""
