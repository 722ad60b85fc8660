"""structures of mmext."""
