"""Cross attention in which every query looks only where its own mask of the layer before is (Mask2Former).

Source: https://arxiv.org/abs/2112.01527, section 3.2.

Shape letters: B images, Q queries, K keys (positions of a feature map), d channels, h heads.
"""

import torch
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn
from torch.nn import functional

from mmext.registry import MODELS

# Boxes in which queries look are half as long again as their detections: a mask ends where something else begins.
BOX_EXPANSION = 0.5


@MODELS.register_module()
class MaskedCrossAttention(nn.Module):
    """Multi-head attention from queries to keys, with a mask for each query that all heads share.

    Args:
        embed_dims: d.
        num_heads: h, a divisor of d.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(
                f'MaskedCrossAttention: got embed_dims={embed_dims}, expected a multiple of '
                f'num_heads={num_heads}. Change one of them.'
            )
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embed_dims, embed_dims)
        self.k_proj = nn.Linear(embed_dims, embed_dims)
        self.v_proj = nn.Linear(embed_dims, embed_dims)
        self.out_proj = nn.Linear(embed_dims, embed_dims)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        *,
        query_pos: Tensor,
        key_pos: Tensor,
        blocked: Tensor,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Attend to keys that are not blocked.

        Args:
            queries: (B, Q, d).
            keys: (B, K, d), the values too.
            query_pos: position encoding added to the queries, of a shape that broadcasts to theirs.
            key_pos: position encoding added to the keys but not to the values.
            blocked: (B, 1, Q, K) bool, True where a query must not look. A query with no key left looks at all
                that are not padding.
            padding: (B, 1, 1, K) bool, True for keys outside the image, at which no query looks. Every image
                must have a key that is not padding.

        Returns:
            (B, Q, d), without the residual.
        """
        attended = functional.scaled_dot_product_attention(
            self._split_heads(self.q_proj(queries + query_pos)),  # B x h x Q x d/h
            self._split_heads(self.k_proj(keys + key_pos)),  # B x h x K x d/h
            self._split_heads(self.v_proj(keys)),
            # This function's masks say where to look; nn.MultiheadAttention's, and `blocked`, where not to.
            attn_mask=~unblock_full_rows(blocked, padding),
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, d) to (B, h, N, d / h)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def unblock_full_rows(blocked: Tensor, padding: Tensor | None = None) -> Tensor:
    """Open rows in which everything is blocked; softmax over nothing is NaN or 0, depending on the kernel.

    Args:
        blocked: (..., K) bool.
        padding: keys that stay blocked whatever happens, of a shape that broadcasts; None for none.

    Returns:
        (..., K) bool: `blocked` or `padding`; only `padding` in rows where that blocks every key.
    """
    if padding is None:
        return blocked & ~blocked.all(dim=-1, keepdim=True)
    # Padding first: a query whose keys outside the padding are all blocked must be found as well.
    blocked = blocked | padding
    return torch.where(blocked.all(dim=-1, keepdim=True), padding, blocked)


class MaskedDecoderLayer(nn.Module):
    """Masked cross attention, self attention of the queries, feed-forward network, each with post-norm residual.

    Args:
        embed_dims: d, a multiple of `num_heads`.
        num_heads: heads of both attentions.
        feedforward_channels: hidden channels of the feed-forward network.
    """

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int) -> None:
        super().__init__()
        self.cross_attn = MaskedCrossAttention(embed_dims, num_heads)
        self.self_attn = nn.MultiheadAttention(embed_dims, num_heads, batch_first=True)
        self.ffn = FFN(embed_dims, feedforward_channels)
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dims) for _ in range(3))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        *,
        query_pos: Tensor,
        key_pos: Tensor,
        blocked: Tensor,
        ignored: Tensor | None = None,
    ) -> Tensor:
        """Refine queries (B, Q, d) by keys (B, K, d).

        Args:
            queries: (B, Q, d).
            keys: (B, K, d).
            query_pos: (B, Q, d) or of a shape that broadcasts to it.
            key_pos: (B, K, d) or of a shape that broadcasts to it.
            blocked: (B, 1, Q, K) bool, see `MaskedCrossAttention`.
            ignored: (B, Q) bool, queries at which the others do not look; None for none.

        Returns:
            (B, Q, d).
        """
        attended = self.cross_attn(
            queries, keys, query_pos=query_pos, key_pos=key_pos, blocked=blocked
        )
        queries = self.norms[0](queries + attended)

        placed = queries + query_pos
        key_padding = None if ignored is None else unblock_full_rows(ignored)
        attended, _ = self.self_attn(
            placed, placed, queries, key_padding_mask=key_padding, need_weights=False
        )
        queries = self.norms[1](queries + attended)

        return self.norms[2](self.ffn(queries))


@torch.no_grad()
def find_outside(embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """Where each query's mask is not: what its next attention blocks.

    Resizing is linear, so it is the mask features that are resized, once per level, and not the mask of every query.

    Args:
        embeddings: (B, Q, d).
        mask_features: (B, d, K) at the size of the keys.

    Returns:
        (B, 1, Q, K) bool.
    """
    return (torch.bmm(embeddings, mask_features) < 0)[:, None]


@torch.no_grad()
def find_outside_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which cells of a level no part of each box covers: what a query's attention blocks that has no good mask yet.

    Args:
        boxes: (B, Q, 4) cxcywh in [0, 1]; they count as half as long again.
        size: (h, w) of the level.

    Returns:
        (B, 1, Q, hw) bool.
    """
    height, width = size
    cells = boxes.new_tensor([width, height])
    centre = boxes[..., :2] * cells
    # A cell is covered from half its own length on: on a coarse level a small box holds no centre of a cell.
    reach = (boxes[..., 2:] * cells * (1 + BOX_EXPANSION) + 1) / 2
    outside = [
        (torch.arange(length, device=boxes.device) + 0.5 - centre[..., axis, None]).abs()
        > reach[..., axis, None]
        for axis, length in ((0, width), (1, height))
    ]
    return (outside[1][..., :, None] | outside[0][..., None, :]).flatten(2)[:, None]
