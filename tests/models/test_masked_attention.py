"""Masked cross attention and the decoder layer around it."""

import pytest
import torch
from mmdet.models.layers.transformer.mask2former_layers import Mask2FormerTransformerDecoderLayer
from torch import Tensor, nn

from mmext.models.common.masked_attention import (
    MaskedCrossAttention,
    MaskedDecoderLayer,
    unblock_full_rows,
)

BATCH, QUERIES, KEYS, DIMS, HEADS = 2, 5, 12, 16, 4


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
    queries = torch.randn(BATCH, QUERIES, DIMS, dtype=dtype)
    others = dict(
        keys=torch.randn(BATCH, KEYS, DIMS, dtype=dtype),
        query_pos=torch.randn(BATCH, QUERIES, DIMS, dtype=dtype),
        key_pos=torch.randn(1, KEYS, DIMS, dtype=dtype),
        blocked=torch.rand(BATCH, 1, QUERIES, KEYS) < 0.5,
    )
    others['blocked'][..., 0] = False
    return queries, others


def packed(attention: MaskedCrossAttention) -> dict[str, Tensor]:
    """The weights under the names of `nn.MultiheadAttention`."""
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    return {
        'in_proj_weight': torch.cat([part.weight for part in parts]),
        'in_proj_bias': torch.cat([part.bias for part in parts]),
        'out_proj.weight': attention.out_proj.weight,
        'out_proj.bias': attention.out_proj.bias,
    }


def test_cross_attention__equals_torch_with_its_polarity() -> None:
    attention = MaskedCrossAttention(DIMS, HEADS)
    reference = nn.MultiheadAttention(DIMS, HEADS, batch_first=True)
    reference.load_state_dict(packed(attention))
    queries, inputs = random_inputs()
    expected, _ = reference(
        queries + inputs['query_pos'],
        inputs['keys'] + inputs['key_pos'],
        inputs['keys'],
        attn_mask=inputs['blocked'].expand(-1, HEADS, -1, -1).flatten(0, 1),
    )
    torch.testing.assert_close(attention(queries, **inputs), expected)


def test_cross_attention__blocked_key_has_no_influence() -> None:
    attention = MaskedCrossAttention(DIMS, HEADS)
    queries, inputs = random_inputs()
    inputs['blocked'][0, 0, :3, 7] = True
    inputs['blocked'][0, 0, 3:, 7] = False
    before = attention(queries, **inputs)
    inputs['keys'][0, 7] += 1
    same = (attention(queries, **inputs) == before).all(dim=-1)
    assert same[0].tolist() == [True, True, True, False, False]
    assert same[1].all()


def test_cross_attention__fully_blocked_query_looks_everywhere() -> None:
    attention = MaskedCrossAttention(DIMS, HEADS)
    queries, inputs = random_inputs()
    others = attention(queries, **inputs)
    everywhere = attention(queries, **{**inputs, 'blocked': torch.zeros_like(inputs['blocked'])})
    inputs['blocked'][1, :, 2] = True
    result = attention(queries, **inputs)
    torch.testing.assert_close(result[1, 2], everywhere[1, 2])
    result[1, 2] = others[1, 2]
    torch.testing.assert_close(result, others)


def test_cross_attention__padding_equals_keys_cut_off() -> None:
    attention = MaskedCrossAttention(DIMS, HEADS)
    queries, inputs = random_inputs()
    # Query 1 has no key outside the padding: only with the padding counted in is it fully blocked.
    inputs['blocked'][:, :, 1, :8] = True
    inputs['blocked'][:, :, 1, 8:] = False
    padding = (torch.arange(KEYS) >= 8).expand(BATCH, 1, 1, KEYS)
    result = attention(queries, **inputs, padding=padding)
    cut = dict(
        keys=inputs['keys'][:, :8],
        key_pos=inputs['key_pos'][:, :8],
        blocked=inputs['blocked'][..., :8],
        query_pos=inputs['query_pos'],
    )
    torch.testing.assert_close(result, attention(queries, **cut))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_decoder_layer__everything_blocked_stays_finite(dtype: torch.dtype) -> None:
    layer = MaskedDecoderLayer(DIMS, HEADS, 32).to(dtype)
    queries, inputs = random_inputs(dtype)
    inputs['blocked'].fill_(True)
    inputs['keys'].requires_grad_(True)
    result = layer(queries, **inputs, ignored=torch.ones(BATCH, QUERIES, dtype=torch.bool))
    result.sum().backward()
    assert result.dtype == dtype
    assert result.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert inputs['keys'].grad.isfinite().all()


@pytest.mark.parametrize(
    ('blocked', 'padding', 'expected'),
    [
        ([0, 1, 1, 0], None, [0, 1, 1, 0]),
        ([1, 1, 1, 1], None, [0, 0, 0, 0]),
        ([0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 1, 1]),
        ([1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1]),
        ([1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]),
    ],
    ids=['open', 'full', 'padded', 'full-padded', 'full-with-padding-only'],
)
def test_unblock_full_rows__by_hand(blocked: list, padding: list | None, expected: list) -> None:
    row = torch.tensor([blocked], dtype=torch.bool)
    pad = None if padding is None else torch.tensor([padding], dtype=torch.bool)
    assert unblock_full_rows(row, pad).int().tolist() == [expected]


def test_decoder_layer__equals_mmdet() -> None:
    layer = MaskedDecoderLayer(DIMS, HEADS, 32)
    attention = dict(embed_dims=DIMS, num_heads=HEADS, batch_first=True)
    reference = Mask2FormerTransformerDecoderLayer(
        self_attn_cfg=attention,
        cross_attn_cfg=attention,
        ffn_cfg=dict(embed_dims=DIMS, feedforward_channels=32),
    )
    reference.cross_attn.attn.load_state_dict(packed(layer.cross_attn))
    reference.self_attn.attn.load_state_dict(layer.self_attn.state_dict())
    reference.ffn.load_state_dict(layer.ffn.state_dict())
    nn.init.normal_(layer.norms[0].weight)
    reference.norms.load_state_dict(layer.norms.state_dict())

    queries, inputs = random_inputs()
    expected = reference(
        query=queries,
        key=inputs['keys'],
        query_pos=inputs['query_pos'],
        key_pos=inputs['key_pos'].expand(BATCH, -1, -1),
        cross_attn_mask=inputs['blocked'].expand(-1, HEADS, -1, -1).flatten(0, 1),
    )
    torch.testing.assert_close(layer(queries, **inputs), expected)


def test_decoder_layer__ignored_queries_have_no_influence() -> None:
    layer = MaskedDecoderLayer(DIMS, HEADS, 32)
    queries, inputs = random_inputs()
    ignored = torch.zeros(BATCH, QUERIES, dtype=torch.bool)
    ignored[0, 3:] = True
    before = layer(queries, **inputs, ignored=ignored)
    queries[0, 3:] += 1
    after = layer(queries, **inputs, ignored=ignored)
    torch.testing.assert_close(after[~ignored], before[~ignored])
    assert not torch.allclose(layer(queries, **inputs)[0, :3], before[0, :3])


def test_cross_attention__heads_must_divide_channels() -> None:
    with pytest.raises(ValueError, match='multiple of num_heads=5'):
        MaskedCrossAttention(16, 5)
