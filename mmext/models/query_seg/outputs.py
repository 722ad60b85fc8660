"""What goes between the query decoder and its losses.

Shape letters: B images, Q queries, C classes, d embedding channels, G objects of an image.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class QueryOutputs(NamedTuple):
    """Raw outputs of the decoder.

    Attributes:
        class_logits: (B, Q, C + 1) each, the last class is "no object": before the first layer and after every layer,
            or only after the last.
        mask_embeddings: (B, Q, d) each, as many as `class_logits`; `predict_masks` makes masks of them.
        mask_features: (B, d, h, w).
    """

    class_logits: list[Tensor]
    mask_embeddings: list[Tensor]
    mask_features: Tensor


class ImageTruth(NamedTuple):
    """Objects of an image; for semantic segmentation the classes that it has.

    Attributes:
        labels: (G,) int64 in [0, C).
        masks: (G, H, W) bool, of the network input's size, one byte a pixel.
    """

    labels: Tensor
    masks: Tensor


def predict_masks(embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """Mask logits of embeddings (B, Q, d) on features (B, d, h, w): (B, Q, h, w)."""
    return torch.bmm(embeddings, mask_features.flatten(2)).unflatten(2, mask_features.shape[2:])
