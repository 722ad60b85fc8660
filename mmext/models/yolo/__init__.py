"""yolo of mmext."""
