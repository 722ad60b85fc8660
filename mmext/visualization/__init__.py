"""visualization of mmext."""
