"""models of mmext."""
