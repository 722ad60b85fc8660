"""The decoder of mmdet's Mask2Former computed another way: same modules, same parameters, same numbers.

What differs from `mmdet.Mask2FormerHead.forward`:

- Bilinear resizing is linear and acts on each channel alone, so it commutes with the product of mask embeddings and mask
  features. The features are resized to each level once, and the masks that say where a query looks are computed there,
  instead of full size for every layer and then resized.
- Classes and full-size masks are made where somebody reads them: in evaluation behind the last layer alone.
- All heads share one mask, and torch's fused attention never writes the weights of the attention down.
- Sines of the columns are computed for one row, those of the rows for one column.

Rounding differs by what a changed order of float32 sums makes; a mask logit within it of 0 may fall on the other side.

Source: Mask2Former (https://arxiv.org/abs/2112.01527), section 3.2.

Shape letters: B images, Q queries, K positions of a feature level, d channels, n heads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.layers import SinePositionalEncoding
from mmdet.models.layers.transformer.mask2former_layers import Mask2FormerTransformerDecoderLayer
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.masked_attention import find_outside, unblock_full_rows
from mmext.models.common.query_outputs import QueryOutputs


class Keys(NamedTuple):
    """A feature level as the attention wants it.

    Attributes:
        content: (B, K, d), the values.
        placed: (B, K, d), content plus its position encoding, the keys.
        mask_features: (B, d, K) resized to the level, without gradient.
    """

    content: Tensor
    placed: Tensor
    mask_features: Tensor


def decode_queries(
    head: Mask2FormerHead,
    memories: Sequence[Tensor],
    mask_features: Tensor,
    *,
    every_output: bool,
) -> QueryOutputs:
    """Run the transformer decoder of a head.

    Args:
        head: whose modules are used; `check_attentions` has passed it.
        memories: (B, c, h, w) of each level, coarsest first, of the pixel decoder.
        mask_features: (B, d, H / 4, W / 4) of the pixel decoder.
        every_output: classes and mask embeddings before the first layer and after every layer too, for training.
    """
    decoder = head.transformer_decoder
    batch = len(mask_features)
    # Three times as fast to resize where the channels of a place lie side by side.
    places = mask_features.detach().contiguous(memory_format=torch.channels_last)
    levels = [make_keys(head, index, memory, places) for index, memory in enumerate(memories)]
    queries = head.query_feat.weight.expand(batch, -1, -1)
    position = head.query_embed.weight  # Q x d

    class_logits: list[Tensor] = []
    mask_embeddings: list[Tensor] = []
    for index, layer in enumerate(decoder.layers):
        normed = decoder.post_norm(queries)
        embeddings = head.mask_embed(normed)
        if every_output:
            class_logits.append(head.cls_embed(normed))
            mask_embeddings.append(embeddings)
        keys = levels[index % len(levels)]
        blocked = unblock_full_rows(find_outside(embeddings, keys.mask_features))
        queries = refine_queries(layer, queries, position, keys, blocked)
    normed = decoder.post_norm(queries)
    class_logits.append(head.cls_embed(normed))
    mask_embeddings.append(head.mask_embed(normed))
    return QueryOutputs(class_logits, mask_embeddings, normed, mask_features)


def make_keys(head: Mask2FormerHead, index: int, memory: Tensor, mask_features: Tensor) -> Keys:
    """Keys of level `index`, whose memory is (B, c, h, w)."""
    projected = head.decoder_input_projs[index](memory).flatten(2).transpose(1, 2)
    # Contiguous: each of the layers that see a level would copy it for its projections.
    content = projected.contiguous() + head.level_embed.weight[index]
    position = encode_positions(head.decoder_positional_encoding, memory)
    resized = functional.interpolate(
        mask_features, memory.shape[2:], mode='bilinear', align_corners=False
    )
    return Keys(content, content + position, resized.flatten(2))


@torch.no_grad()
def encode_positions(encoding: SinePositionalEncoding, features: Tensor) -> Tensor:
    """What `encoding` gives for an image without padding, (1, h w, d), for features (B, c, h, w).

    Its first half depends on the row alone and its second on the column, so that h + w places are enough.
    """
    height, width = features.shape[2:]
    rows = encoding(features.new_zeros(1, height, 1, dtype=torch.bool)).expand(-1, -1, -1, width)
    columns = encoding(features.new_zeros(1, 1, width, dtype=torch.bool)).expand(-1, -1, height, -1)
    half = rows.shape[1] // 2
    position = torch.cat([rows[:, :half], columns[:, half:]], dim=1)
    return position.flatten(2).transpose(1, 2).contiguous()


def refine_queries(
    layer: Mask2FormerTransformerDecoderLayer,
    queries: Tensor,
    position: Tensor,
    keys: Keys,
    blocked: Tensor,
) -> Tensor:
    """A layer of the decoder: cross attention, self attention, feed-forward network.

    Args:
        layer: whose modules are used.
        queries: (B, Q, d).
        position: (Q, d).
        keys: of the level that this layer sees.
        blocked: (B, 1, Q, K) bool, True where a query must not look; no row is all True.

    Returns:
        (B, Q, d).
    """
    cross = attend(layer.cross_attn, queries + position, keys.placed, keys.content, ~blocked)
    queries = layer.norms[0](queries + cross)
    placed = queries + position
    queries = layer.norms[1](queries + attend(layer.self_attn, placed, placed, queries))
    return layer.norms[2](layer.ffn(queries))


def attend(
    attention: MultiheadAttention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attended: Tensor | None = None,
) -> Tensor:
    """What `attention` adds to its queries, without its weights.

    Args:
        attention: mmcv's module, around an `nn.MultiheadAttention`.
        queries: (B, Q, d) with their positions.
        keys: (B, K, d) with their positions.
        values: (B, K, d).
        attended: (B, 1, Q, K) bool, True where a query looks; None for everywhere. The other way round than the masks of
            `nn.MultiheadAttention`.

    Returns:
        (B, Q, d).
    """
    inner = attention.attn
    weights = inner.in_proj_weight.chunk(3)
    biases = (None,) * 3 if inner.in_proj_bias is None else inner.in_proj_bias.chunk(3)
    query_heads, key_heads, value_heads = (
        functional.linear(x, weight, bias).unflatten(2, (inner.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
    )  # B x n x (Q or K) x d / n
    mixed = functional.scaled_dot_product_attention(
        query_heads,
        key_heads,
        value_heads,
        attn_mask=attended,
        dropout_p=inner.dropout if inner.training else 0.0,
    )
    out = inner.out_proj(mixed.transpose(1, 2).flatten(2))
    return attention.dropout_layer(attention.proj_drop(out))


def check_attentions(decoder: nn.Module) -> None:
    """Refuse options of `nn.MultiheadAttention` that `attend` does not know.

    Raises:
        ValueError: an attention has other dimensions for its keys, extra keys, or extra zeros.
    """
    for name, module in decoder.named_modules():
        if not isinstance(module, nn.MultiheadAttention):
            continue
        # Without `_qkv_same_embed_dim` there is no joint projection at all.
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise ValueError(
                f'FastMask2FormerHead: got transformer_decoder.{name} with kdim, vdim, add_bias_kv or add_zero_attn, '
                'expected an attention without them. Remove them, or use mmdet.Mask2FormerHead.'
            )
