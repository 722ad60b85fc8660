"""Convolution blocks of YOLO against their definitions, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmext.models.backbones.csp_context import C2PSA, SPPF, SpatialAttention
from mmext.models.common.layers import C2f, C3k2, ConvNormAct, scale_channels, scale_depth


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randomize_norms(module: nn.Module) -> nn.Module:
    """Statistics and scales away from 0 and 1, so that a norm left out would show; eval mode."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.2)
            nn.init.normal_(layer.bias, 0, 0.2)
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
    return module.eval()


@pytest.mark.parametrize(
    ('channels', 'widen_factor', 'max_channels', 'expected'),
    [(64, 0.25, 1024, 16), (1024, 0.75, 768, 576), (1024, 1.25, 512, 640), (100, 0.5, 1024, 56)],
    ids=['plain', 'capped', 'capped-then-widened', 'rounded-up'],
)
def test_scale_channels__published_rule(
    channels: int, widen_factor: float, max_channels: int, expected: int
) -> None:
    assert scale_channels(channels, widen_factor, max_channels) == expected


@pytest.mark.parametrize(
    ('num_blocks', 'deepen_factor', 'expected'),
    [(3, 0.33, 1), (6, 0.33, 2), (6, 0.67, 4), (2, 0.1, 1)],
    ids=['down', 'up', 'two-thirds', 'at-least-one'],
)
def test_scale_depth__published_rule(num_blocks: int, deepen_factor: float, expected: int) -> None:
    assert scale_depth(num_blocks, deepen_factor) == expected


@torch.no_grad()
def test_conv_norm_act__is_convolution_norm_silu() -> None:
    layer = randomize_norms(ConvNormAct(3, 8, kernel_size=3, stride=2))
    x = torch.randn(2, 3, 9, 7)
    out = F.conv2d(x, layer.conv.weight, stride=2, padding=1)
    bn = layer.bn
    scale = bn.weight / (bn.running_var + 1e-3).sqrt()
    out = (out - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]
    torch.testing.assert_close(layer(x), out / (1 + (-out).exp()))


@torch.no_grad()
@pytest.mark.parametrize('add_identity', [True, False], ids=['shortcut', 'plain'])
def test_c2f__is_split_chain_concatenate(add_identity: bool) -> None:
    block = randomize_norms(C2f(6, 10, num_blocks=2, add_identity=add_identity))
    x = torch.randn(2, 6, 5, 4)
    first, last = block.cv1(x).chunk(2, dim=1)
    outputs = [first, last]
    for bottleneck in block.m:
        residual = last if add_identity else 0
        last = bottleneck.cv2(bottleneck.cv1(last)) + residual
        outputs.append(last)
    assert last.shape[1] == 5
    torch.testing.assert_close(block(x), block.cv2(torch.cat(outputs, dim=1)))


@torch.no_grad()
def test_c3k2__bottlenecks_narrow_to_half_and_have_shortcuts() -> None:
    block = randomize_norms(C3k2(6, 16, num_blocks=1, inner='bottleneck'))
    x = torch.randn(2, 6, 5, 4)
    first, last = block.cv1(x).chunk(2, dim=1)
    inner = block.m[0]
    assert inner.cv1.conv.weight.shape == (4, 8, 3, 3)
    expected = block.cv2(torch.cat((first, last, last + inner.cv2(inner.cv1(last))), dim=1))
    torch.testing.assert_close(block(x), expected)


@torch.no_grad()
def test_c3k2__c3k_joins_a_chain_of_two_and_a_plain_branch() -> None:
    block = randomize_norms(C3k2(6, 16, num_blocks=1, inner='c3k'))
    x = torch.randn(2, 6, 5, 4)
    first, last = block.cv1(x).chunk(2, dim=1)
    inner = block.m[0]
    deep = inner.cv1(last)
    for bottleneck in inner.m:
        deep = deep + bottleneck.cv2(bottleneck.cv1(deep))
    inner_output = inner.cv3(torch.cat((deep, inner.cv2(last)), dim=1))
    expected = block.cv2(torch.cat((first, last, inner_output), dim=1))
    torch.testing.assert_close(block(x), expected)


@torch.no_grad()
def test_sppf__pools_of_5_9_and_13_pixels() -> None:
    block = randomize_norms(SPPF(8))
    x = torch.randn(2, 8, 17, 15)
    narrow = block.cv1(x)
    pools = [F.max_pool2d(narrow, size, 1, size // 2) for size in (5, 9, 13)]
    torch.testing.assert_close(block(x), block.cv2(torch.cat((narrow, *pools), dim=1)))


@torch.no_grad()
def test_spatial_attention__is_softmax_attention_per_head() -> None:
    attention = randomize_norms(SpatialAttention(128))
    x = torch.randn(2, 128, 3, 5)
    qkv = attention.qkv(x)
    outputs, values = [], []
    for start in (0, 128):  # 32 of queries, 32 of keys, 64 of values; then the second head
        query = qkv[:, start : start + 32].flatten(2)
        key = qkv[:, start + 32 : start + 64].flatten(2)
        value = qkv[:, start + 64 : start + 128].flatten(2)
        weight = torch.einsum('bcq,bck->bqk', query, key).div(math.sqrt(32)).softmax(dim=-1)
        outputs.append(torch.einsum('bqk,bck->bcq', weight, value))
        values.append(value)
    attended, value = (torch.cat(parts, dim=1).view(2, 128, 3, 5) for parts in (outputs, values))
    torch.testing.assert_close(attention(x), attention.proj(attended + attention.pe(value)))


@torch.no_grad()
def test_c2psa__attends_on_the_second_half_only() -> None:
    block = randomize_norms(C2PSA(64, num_blocks=2))
    x = torch.randn(2, 64, 4, 4)
    kept, attended = block.cv1(x).chunk(2, dim=1)
    for psa in block.m:
        attended = attended + psa.attn(attended)
        attended = attended + psa.ffn[1](psa.ffn[0](attended))
    torch.testing.assert_close(block(x), block.cv2(torch.cat((kept, attended), dim=1)))
