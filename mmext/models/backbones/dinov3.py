"""DINOv3 vision transformers of DEIMv2: two distilled tiny ones and DINOv3's own ViT-S and ViT-S+.

Sources: DINOv3 (https://arxiv.org/abs/2508.10104), DEIMv2 (https://arxiv.org/abs/2509.20787),
RoFormer for the rotary position encoding (https://arxiv.org/abs/2104.09864). Modules bear the names
of the published weights. The two families differ in more than size:

    ===================  =====================  =========================================
    what                 vit_tiny, ..._plus     vits, vits_plus
    ===================  =====================  =========================================
    prefix tokens        cls                    cls and 4 storage (register) tokens
    bias of the keys     used                   masked to zero
    layer scale          none                   on both branches, starts at 1e-5
    eps of the norms     1e-6                   1e-5
    final norm           none                   on every block that is handed on
    blocks handed on     3, 7, 11               5, 8, 11
    training             positions as they are  positions rescaled anew in every block
    ===================  =====================  =========================================

Why this is not `transformers.DINOv3ViTModel`: that draws one rescale for a whole pass, recomputes
the periods of the rotary encoding where the weights store them, always has layer scales and a final
norm, and splits queries, keys and values into three products. Its names differ, too, so that every
checkpoint of DEIMv2 would have to be taken apart. Where the two agree (ViT-S in eval) the tests
compare them.

Shapes: B images, N tokens (P prefix tokens first, then H x W patches row by row), E channels,
h heads of D channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from mmext.models.backbones.dinov3_rotary import (
    HEAD_CHANNELS,
    RotaryEmbedding,
    RotaryTables,
    interleave_halves,
)
from mmext.models.common.folding import FoldedLinear, Kernel

PATCH_SIZE = 16
NUM_BLOCKS = 12
INIT_STD = 0.02


class Arch(NamedTuple):
    """What distinguishes one vision transformer from another.

    Attributes:
        embed_dims: E, a multiple of 64; each head has 64 channels.
        mlp_channels: Hidden channels of the feed-forward networks.
        out_indices: Blocks whose tokens are handed on, in rising order.
        num_storage_tokens: Register tokens after the cls token. With them comes a mask token, of
            which pre-training makes use, and whose entry is in the weights.
        norm_eps: Of all layer norms.
        masks_key_bias: Whether the bias of the keys is without effect.
        layer_scale: Initial factor of both branches of each block, None for none.
        has_gated_mlp: Feed-forward networks SwiGLU instead of GELU.
        has_final_norm: Whether a layer norm follows each block of `out_indices`.
        max_rescale: In training the positions are multiplied by at most this and at least its
            inverse; None leaves them alone.
    """

    embed_dims: int
    mlp_channels: int
    out_indices: tuple[int, ...]
    num_storage_tokens: int
    norm_eps: float
    masks_key_bias: bool
    layer_scale: float | None
    has_gated_mlp: bool
    has_final_norm: bool
    max_rescale: float | None


_TINY = Arch(
    embed_dims=192,
    mlp_channels=768,
    out_indices=(3, 7, 11),
    num_storage_tokens=0,
    norm_eps=1e-6,
    masks_key_bias=False,
    layer_scale=None,
    has_gated_mlp=False,
    has_final_norm=False,
    max_rescale=None,
)
_SMALL = Arch(
    embed_dims=384,
    mlp_channels=1536,
    out_indices=(5, 8, 11),
    num_storage_tokens=4,
    norm_eps=1e-5,
    masks_key_bias=True,
    layer_scale=1e-5,
    has_gated_mlp=False,
    has_final_norm=True,
    max_rescale=2.0,
)
ARCHS: dict[str, Arch] = {
    'vit_tiny': _TINY,
    'vit_tiny_plus': _TINY._replace(embed_dims=256, mlp_channels=1024),
    'vits': _SMALL,
    'vits_plus': _SMALL._replace(has_gated_mlp=True),
}


class KeyMaskedLinear(nn.Linear):
    """Projection to queries, keys and values whose bias has no effect on the keys.

    The mask is part of the published weights. The original leaves it NaN until these are loaded.
    """

    bias_mask: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        mask = torch.ones(3, out_features // 3)
        mask[1] = 0
        self.register_buffer('bias_mask', mask.flatten())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class SelfAttention(nn.Module):
    """Multi-head attention among all tokens, with rotary encoding of queries and keys."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        linear = KeyMaskedLinear if arch.masks_key_bias else nn.Linear
        self.qkv = linear(arch.embed_dims, 3 * arch.embed_dims)
        self.proj = nn.Linear(arch.embed_dims, arch.embed_dims)
        self.folded: nn.Module | None = None

    def forward(self, x: Tensor, tables: RotaryTables) -> Tensor:
        """Tokens (B, N, E) to (B, N, E)."""
        project = self.qkv if self.folded is None else self.folded
        rotate = tables.rotate if self.folded is None else tables.rotate_pairs
        qkv = project(x).unflatten(2, (3, -1, HEAD_CHANNELS))  # B x N x 3 x h x D
        query, key = rotate(qkv[:, :, :2]).unbind(2)
        value = qkv[:, :, 2]
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )  # B x h x N x D
        return self.proj(attended.transpose(1, 2).flatten(2))

    def fold(self) -> FoldedLinear:
        """The projection with channels of queries and keys in the order that makes their rotation fast.

        Products of a query and a key are the same in any common order of channels.
        """
        bias: Tensor = self.qkv.bias
        if isinstance(self.qkv, KeyMaskedLinear):
            bias = bias * self.qkv.bias_mask
        kernel = []
        for rows in (self.qkv.weight, bias):
            query, key, value = rows.chunk(3)
            kernel.append(torch.cat([interleave_halves(query), interleave_halves(key), value]))
        return FoldedLinear(Kernel(*kernel), self.qkv.weight.dtype)


class LayerScale(nn.Module):
    """Multiplies each channel by a learned factor."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class GeluMlp(nn.Module):
    """Feed-forward network with one hidden layer."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class GatedMlp(nn.Module):
    """Feed-forward network SwiGLU (https://arxiv.org/abs/2002.05202): w3(silu(w1 x) * w2 x)."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(channels, hidden_channels)
        self.w2 = nn.Linear(channels, hidden_channels)
        self.w3 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class Block(nn.Module):
    """Pre-norm attention and feed-forward network, each with residual."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        channels, scale = arch.embed_dims, arch.layer_scale
        mlp = GatedMlp if arch.has_gated_mlp else GeluMlp
        self.norm1 = nn.LayerNorm(channels, eps=arch.norm_eps)
        self.attn = SelfAttention(arch)
        self.ls1 = nn.Identity() if scale is None else LayerScale(channels, scale)
        self.norm2 = nn.LayerNorm(channels, eps=arch.norm_eps)
        self.mlp = mlp(channels, arch.mlp_channels)
        self.ls2 = nn.Identity() if scale is None else LayerScale(channels, scale)

    def forward(self, x: Tensor, tables: RotaryTables) -> Tensor:
        """Tokens (B, N, E) to (B, N, E)."""
        x = x + self.ls1(self.attn(self.norm1(x), tables))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """Squares of 16 x 16 pixels to tokens: (B, 3, 16 H, 16 W) to (B, E, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image)


class VisionTransformer(nn.Module):
    """Twelve blocks of attention over patches of 16 x 16 pixels.

    Args:
        arch: What kind of transformer, one of `ARCHS`.
        with_cp: Whether training recomputes the inside of each block in the backward pass instead of
            keeping it: less memory, more time.
    """

    def __init__(self, arch: Arch, *, with_cp: bool = False) -> None:
        super().__init__()
        channels = arch.embed_dims
        self.out_indices = arch.out_indices
        self.with_cp = with_cp
        self.num_prefix_tokens = 1 + arch.num_storage_tokens
        self.cls_token = nn.Parameter(torch.empty(1, 1, channels))
        if arch.num_storage_tokens:
            self.storage_tokens = nn.Parameter(torch.empty(1, arch.num_storage_tokens, channels))
            self.mask_token = nn.Parameter(torch.zeros(1, channels))
        self.patch_embed = PatchEmbedding(channels)
        self.rope_embed = RotaryEmbedding(self.num_prefix_tokens, arch.max_rescale)
        self.blocks = nn.ModuleList(Block(arch) for _ in range(NUM_BLOCKS))
        self.norm = nn.LayerNorm(channels, arch.norm_eps) if arch.has_final_norm else nn.Identity()
        self._reset_parameters()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of an image.

        Args:
            image: (B, 3, 16 H, 16 W).

        Returns:
            The tokens of each block of `out_indices` as a (B, E, H, W) map.
        """
        patches = self.patch_embed(image)
        height, width = patches.shape[-2:]
        tables = self.rope_embed(height, width, len(self.blocks))
        tokens = torch.cat([self._prefix(len(image)), patches.flatten(2).mT], dim=1)
        outputs = []
        for index, block in enumerate(self.blocks):
            if self.with_cp and torch.is_grad_enabled() and tokens.requires_grad:
                # The tables come from outside, so that both passes have the same rescale.
                tokens = recompute(block, tokens, tables[index], use_reentrant=False)
            else:
                tokens = block(tokens, tables[index])
            if index in self.out_indices:
                kept = self.norm(tokens[:, self.num_prefix_tokens :])
                outputs.append(kept.mT.unflatten(2, (height, width)))
        return outputs

    def _prefix(self, batch_size: int) -> Tensor:
        """(B, P, E)."""
        if self.num_prefix_tokens == 1:
            return self.cls_token.expand(batch_size, -1, -1)
        # The mask token has a gradient, zero, so that distributed training finds it in use.
        cls_token = self.cls_token + 0 * self.mask_token
        return torch.cat([cls_token, self.storage_tokens], dim=1).expand(batch_size, -1, -1)

    def _reset_parameters(self) -> None:
        nn.init.normal_(self.cls_token, std=INIT_STD)
        if self.num_prefix_tokens > 1:
            nn.init.normal_(self.storage_tokens, std=INIT_STD)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
