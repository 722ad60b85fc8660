"""converters of mmext."""
