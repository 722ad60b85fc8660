"""Position encodings that mmdet has no module for; that of feature maps is mmdet's `SinePositionalEncoding`."""

from mmdet.models.layers.transformer.utils import MLP, coordinate_to_encoding
from torch import Tensor, nn


class BoxPositionEncoding(nn.Module):
    """Sines of centre, width and height, mixed by two linear layers (as in DAB-DETR, arXiv:2201.12329).

    Args:
        embed_dims: channels of the encoding, a multiple of 4.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.num_feats = embed_dims // 2
        self.mlp = MLP(4 * self.num_feats, embed_dims, embed_dims, num_layers=2)

    def forward(self, boxes: Tensor) -> Tensor:
        """Boxes (B, Q, 4) cxcywh in [0, 1] to (B, Q, embed_dims)."""
        sines = coordinate_to_encoding(boxes.float(), num_feats=self.num_feats)
        return self.mlp(sines.to(self.mlp.layers[0].weight.dtype))
