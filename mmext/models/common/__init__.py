"""common of mmext."""
