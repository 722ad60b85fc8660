"""engine of mmext."""
