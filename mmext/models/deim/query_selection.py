"""The places of the feature maps that queries start from.

Sources: two-stage selection of Deformable DETR (https://arxiv.org/abs/2010.04159) in the form of RT-DETR
(https://arxiv.org/abs/2304.08069): content from the memory, position from the box predicted there.

Shape letters: B images, K places over all levels, d channels, Q queries, C classes.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

_BASE_SIZE = 0.05
_MARGIN = 0.01


class Anchors(NamedTuple):
    """A prior box for every place, level after level, row by row.

    Attributes:
        logits: (1, K, 4) float32, inverse sigmoid of cxcywh; +inf where the prior is not valid.
        valid: (1, K, 1) bool.
    """

    logits: Tensor
    valid: Tensor


def get_anchors(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Anchors:
    """Anchors of feature maps of height and width `sizes`, finest first; kept for the sizes seen last."""
    if torch.compiler.is_compiling():  # tracers' tensors must not outlive the trace
        return make_anchors(sizes, device)
    return _get_anchors(sizes, device)


@lru_cache(maxsize=32)
def _get_anchors(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Anchors:
    # Tensors born in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        return make_anchors(sizes, device)


def make_anchors(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Anchors:
    """A square at the centre of every cell, 0.05 of the image in the finest level and twice as large in each further.

    Sizes follow the level's place in the list, not its stride: a network without stride 8 starts at 0.05 with stride
    16. Anchors with a coordinate closer than 0.01 to 0 or 1 are not valid; those are of the finest level's border.
    """
    levels = []
    for level, (height, width) in enumerate(sizes):
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        size = torch.full((height, width), _BASE_SIZE * 2**level, device=device)
        y, x = torch.meshgrid(y, x, indexing='ij')
        levels.append(torch.stack([x, y, size, size], dim=-1).flatten(0, 1))
    boxes = torch.cat(levels)[None]
    valid = ((boxes > _MARGIN) & (boxes < 1 - _MARGIN)).all(dim=-1, keepdim=True)
    return Anchors(boxes.logit().masked_fill(~valid, torch.inf), valid)


def select_places(logits: Tensor, num_queries: int) -> Tensor:
    """The places of the highest class logits (B, K, C), best first: (B, min(Q, K)) int64."""
    scores = logits.detach().amax(dim=-1)
    return scores.topk(min(num_queries, scores.shape[1]), dim=1).indices


def take(places: Tensor, values: Tensor) -> Tensor:
    """Rows (B, Q, c) of values (B, K, c) at places (B, Q)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
