"""One layer of the DEIM transformer decoder.

Source: DEIMv2 (https://arxiv.org/abs/2509.20787); the gate is that of D-FINE (https://arxiv.org/abs/2410.13842).

Shape letters: B images, N queries, d channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmext.models.deim.cross_attention import DeformableCrossAttention
from mmext.models.deim.perceptrons import RMSNorm, SwiGLU

# The largest float16: what half precision would have turned into infinity stays finite.
_MAX_ACTIVATION = 65504


class Gateway(nn.Module):
    """Weighs two tensors against each other, channel by channel; a new gate takes half of each.

    Args:
        embed_dims: d.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * embed_dims, 2 * embed_dims)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.norm = RMSNorm(embed_dims)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two (B, N, d) to one (B, N, d)."""
        gates = self.gate(torch.cat([first, second], dim=-1)).sigmoid()
        first_gate, second_gate = gates.chunk(2, dim=-1)
        return self.norm(first_gate * first + second_gate * second)


class DecoderLayer(nn.Module):
    """Self-attention of the queries, deformable attention to the features, SwiGLU; each with residual and norm.

    Args:
        embed_dims: d, a multiple of `num_heads`.
        num_heads: heads of both attentions.
        feedforward_channels: twice the hidden channels of the SwiGLU network, an even number.
        num_points: sampling points of a head on each level, finest first.
        gated: whether a gate joins the queries with what they gathered, instead of a sum.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        feedforward_channels: int,
        num_points: Sequence[int],
        gated: bool,
    ) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dims, num_heads, batch_first=True)
        self.norm1 = RMSNorm(embed_dims)
        self.cross_attn = DeformableCrossAttention(embed_dims, num_heads, num_points)
        self.gated = gated
        if gated:
            self.gateway = Gateway(embed_dims)
        else:
            self.norm2 = RMSNorm(embed_dims)
        self.swish_ffn = SwiGLU(embed_dims, feedforward_channels // 2)
        self.norm3 = RMSNorm(embed_dims)

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        *,
        boxes: Tensor,
        value_maps: Sequence[Tensor],
        blocked: Tensor | None = None,
    ) -> Tensor:
        """Refine the queries.

        Args:
            queries: (B, N, d).
            position: (B, N, d), added to the queries where they ask and where they are asked.
            boxes: (B, N, 4) cxcywh in [0, 1], around which the queries look.
            value_maps: what they look at, see `split_heads`.
            blocked: (N, N) bool, True where query row must not see query column; None for nowhere.

        Returns:
            (B, N, d).
        """
        placed = queries + position
        attended, _ = self.self_attn(placed, placed, queries, attn_mask=blocked, need_weights=False)
        queries = self.norm1(queries + attended)

        gathered = self.cross_attn(queries + position, boxes, value_maps)
        if self.gated:
            queries = self.gateway(queries, gathered)
        else:
            queries = self.norm2(queries + gathered)

        queries = queries + self.swish_ffn(queries)
        return self.norm3(queries.clamp(-_MAX_ACTIVATION, _MAX_ACTIVATION))
