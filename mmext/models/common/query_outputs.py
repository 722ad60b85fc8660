"""What goes into and comes out of the query decoder.

Shape letters: B images, Q queries, C classes, d embedding channels, L decoder layers, H W the network input.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class QuerySeeds(NamedTuple):
    """Detections that queries start from. Query q belongs to seed q through all layers.

    Attributes:
        priors: (B, Q) int64, the place whose feature is the query's first content: an index into the positions of
            all feature levels, finest level first, row by row, which is how detection heads number their priors.
        boxes: (B, Q, 4) cxcywh in [0, 1] of the network input, without gradient: the query's position.
        valid: (B, Q) bool, False for seeds that only fill the batch up. The others do not attend to them, and what
            comes out for them means nothing.
    """

    priors: Tensor
    boxes: Tensor
    valid: Tensor


class QueryOutputs(NamedTuple):
    """Raw outputs of the query decoder.

    Attributes:
        class_logits: (B, Q, C + 1) each, the last class is "no object". In training L + 1 of them: before the first
            layer and after every layer; in eval mode only the last layer's. `class_logits[-1]` is the prediction.
        mask_embeddings: (B, Q, d) each, as many as `class_logits`; `predict_masks` makes masks of them.
        query_embeddings: (B, Q, d) the queries after the last layer, normalised.
        mask_features: (B, d, H / 4, W / 4).
    """

    class_logits: list[Tensor]
    mask_embeddings: list[Tensor]
    query_embeddings: Tensor
    mask_features: Tensor


def predict_masks(embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """Mask logits of embeddings (B, Q, d) on features (B, d, h, w): (B, Q, h, w)."""
    return torch.bmm(embeddings, mask_features.flatten(2)).unflatten(2, mask_features.shape[2:])
