"""evaluation of mmext."""
