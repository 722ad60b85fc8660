"""What users call from Python."""

from mmext.apis.model import init_model

__all__ = ['init_model']
