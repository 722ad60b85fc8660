"""Blocks of the Mix Transformer: attention over reduced keys, and a feed-forward network that sees its neighbours.

Source: SegFormer (https://arxiv.org/abs/2105.15203), section 3.1. Children have the names that they have in mmseg.

Maps are (B, H, W, C) from one end of a block to the other, so that norms and linear layers need no copies. Convolutions
get them as channels-last views. The strides of such a view must be those of a whole batch also where the batch is one
image: oneDNN takes a transposed (1, N, C) for something else and is eight times slower.

Shape letters: B images, H x W positions, C channels, N queries, M keys, h heads, R reduction.
"""

import torch
from mmcv.cnn.bricks.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class PatchEmbedding(nn.Module):
    """Overlapping patches of a map as the positions of the next one.

    Args:
        in_channels: of the map before.
        embed_dims: C.
        patch_size: odd side of a patch.
        stride: from one patch to the next.
        eps: of the norm.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int, stride: int, *, eps: float
    ) -> None:
        super().__init__()
        self.projection = nn.Conv2d(
            in_channels, embed_dims, patch_size, stride, padding=patch_size // 2
        )
        self.norm = nn.LayerNorm(embed_dims, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, H / stride, W / stride, C), rounded up."""
        return self.norm(self.projection(x).permute(0, 2, 3, 1))


class FusedAttention(nn.Module):
    """Multi-head attention with the weights of `torch.nn.MultiheadAttention`, which never forms the N x M matrix.

    Args:
        embed_dims: C, a multiple of `num_heads`.
        num_heads: h.
        dropout: share of the attention weights that are dropped in training.
        bias: whether projections have one, that of the output too.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, dropout: float, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        # Rows of queries, keys and values.
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims)) if bias else None
        self.out_proj = nn.Linear(embed_dims, embed_dims, bias=bias)
        nn.init.trunc_normal_(self.in_proj_weight, std=0.02)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Attend from (B, N, C) to (B, M, C), the keys and the values; (B, N, C)."""
        num_queries = queries.shape[2]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        q = functional.linear(
            queries, weight[:num_queries], None if bias is None else bias[:num_queries]
        )
        kv = functional.linear(
            memory, weight[num_queries:], None if bias is None else bias[num_queries:]
        )
        k, v = kv.chunk(2, dim=2)
        attended = functional.scaled_dot_product_attention(
            self._split_heads(q),
            self._split_heads(k),
            self._split_heads(v),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, h, N, C / h)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class ReducedAttention(nn.Module):
    """Attention of all positions to a map that is R times smaller on each side.

    Args:
        embed_dims: C.
        num_heads: heads, a divisor of C.
        reduction: R; 1 attends to the map itself.
        attn_drop: dropout of the attention weights.
        bias: whether projections have one.
        eps: of the norm of the smaller map.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        reduction: int,
        attn_drop: float,
        bias: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.attn = FusedAttention(embed_dims, num_heads, dropout=attn_drop, bias=bias)
        if reduction > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, reduction, reduction)
            self.norm = nn.LayerNorm(embed_dims, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same, without the residual.

        Raises:
            ValueError: the map is smaller than R.
        """
        memory = x
        if self.reduction > 1:
            if min(x.shape[1:3]) < self.reduction:
                raise ValueError(
                    f'MixVisionTransformer: got a map of {x.shape[1]} x {x.shape[2]} whose keys are to be reduced '
                    f'{self.reduction} times, expected no side below that. Give images of 32 pixels or more on each '
                    'side: test_cfg=dict(size=(32, 32)) in the data_preprocessor of mmseg pads thinner ones in tests.'
                )
            memory = self.norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.attn(x.flatten(1, 2), memory.flatten(1, 2)).view_as(x)


class MixFFN(nn.Module):
    """Feed-forward network with a depthwise 3x3 convolution, which tells a position where the border is.

    Args:
        embed_dims: C.
        hidden_channels: of the layer between.
        dropout: share of the values that are dropped behind each linear layer in training.
    """

    def __init__(self, embed_dims: int, hidden_channels: int, *, dropout: float) -> None:
        super().__init__()
        # The linear layers are stored as 1x1 convolutions.
        self.layers = nn.Sequential(
            nn.Conv2d(embed_dims, hidden_channels, 1),
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv2d(hidden_channels, embed_dims, 1),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same, without the residual."""
        first, depthwise, activation, dropout, second, last_dropout = self.layers
        hidden = _pointwise(first, x)
        hidden = depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return last_dropout(_pointwise(second, dropout(activation(hidden))))


class MixBlock(nn.Module):
    """Attention and feed-forward network, each behind a norm and beside a residual.

    Args:
        embed_dims: C.
        num_heads: heads, a divisor of C.
        reduction: how much smaller the map of keys is on each side.
        hidden_channels: of the feed-forward network.
        qkv_bias: whether the projections of attention have a bias.
        dropout: share of the values that are dropped behind attention and linear layers in training.
        attn_drop: the same for attention weights.
        drop_path: share of the images of a batch for which a branch is left out in training.
        with_cp: whether activations are computed again in the backward pass, to save memory.
        eps: of the norms.
        reduction_eps: of the norm of reduced keys.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        reduction: int,
        hidden_channels: int,
        qkv_bias: bool,
        dropout: float,
        attn_drop: float,
        drop_path: float,
        with_cp: bool,
        eps: float,
        reduction_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps)
        self.attn = ReducedAttention(
            embed_dims,
            num_heads,
            reduction=reduction,
            attn_drop=attn_drop,
            bias=qkv_bias,
            eps=reduction_eps,
        )
        self.norm2 = nn.LayerNorm(embed_dims, eps)
        self.ffn = MixFFN(embed_dims, hidden_channels, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._transform, x, use_reentrant=False)
        return self._transform(x)

    def _transform(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.dropout(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ffn(self.norm2(x)))


def _pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution of (B, H, W, C)."""
    assert isinstance(conv, nn.Conv2d)
    return functional.linear(x, conv.weight.flatten(1), conv.bias)
