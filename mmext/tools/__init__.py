"""tools of mmext."""
