"""SegFormer: decoders of multilayer perceptrons over the maps of a Mix Transformer."""

from mmext.models.segformer.fast_head import FastSegformerHead
from mmext.models.segformer.head import SegformerMLPHead

__all__ = ['FastSegformerHead', 'SegformerMLPHead']
