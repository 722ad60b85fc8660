"""datasets of mmext."""
