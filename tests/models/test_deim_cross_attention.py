"""Deformable attention with a number of points for each level, against a slow loop and against mmcv."""

import math

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from torch import Tensor, nn

from mmext.models.deim.cross_attention import DeformableCrossAttention, split_heads

HEADS, DIMS = 2, 6


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(*num_points: int, heads: int = HEADS, dims: int = DIMS) -> DeformableCrossAttention:
    """With weights that send queries different ways."""
    attention = DeformableCrossAttention(dims, heads, num_points)
    for linear in (attention.sampling_offsets, attention.attention_weights):
        nn.init.normal_(linear.weight, std=0.5)
    return attention


def random_maps(*sizes: tuple[int, int], batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, DIMS, *size) for size in sizes]


def random_boxes(*shape: int) -> Tensor:
    """Some of them reach out of the image."""
    return torch.cat([torch.rand(*shape, 2), 0.1 + torch.rand(*shape, 2)], dim=-1)


def sample(feature_map: Tensor, x: float, y: float) -> Tensor:
    """Bilinear value of a map (C, H, W) at x, y in [0, 1], a cell at a time."""
    height, width = feature_map.shape[1:]
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(len(feature_map))
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * feature_map[:, i, j]
    return total


def slow_attention(
    attention: DeformableCrossAttention, queries: Tensor, boxes: Tensor, maps: list[Tensor]
) -> Tensor:
    """One point after another, (B, N, d)."""
    part = DIMS // HEADS
    output = torch.zeros_like(queries)
    for image, query in torch.cartesian_prod(*(torch.arange(n) for n in queries.shape[:2])):
        offsets = attention.sampling_offsets(queries[image, query]).view(HEADS, -1, 2).tolist()
        weights = attention.attention_weights(queries[image, query]).view(HEADS, -1).softmax(dim=1)
        cx, cy, width, height = boxes[image, query].tolist()
        for head in range(HEADS):
            channels = slice(head * part, (head + 1) * part)
            point = 0
            for level, num_points in enumerate(attention.num_points):
                for _ in range(num_points):
                    dx, dy = offsets[head][point]
                    value = sample(
                        maps[level][image, channels],
                        cx + dx / num_points * width * 0.5,
                        cy + dy / num_points * height * 0.5,
                    )
                    output[image, query, channels] += weights[head, point] * value
                    point += 1
    return output


@torch.no_grad()
def test_attention__equals_slow_loop() -> None:
    attention = build(3, 1, 2)
    maps = random_maps((8, 5), (4, 3), (2, 2))
    queries, boxes = torch.randn(2, 4, DIMS), random_boxes(2, 4)
    torch.testing.assert_close(
        attention(queries, boxes, split_heads(maps, HEADS)),
        slow_attention(attention, queries, boxes, maps),
        atol=1e-5,
        rtol=1e-5,
    )


@torch.no_grad()
def test_attention__equals_mmcv_where_levels_have_equal_points() -> None:
    attention = build(4, 4)
    sizes = [(6, 7), (3, 4)]
    maps = random_maps(*sizes)
    queries, boxes = torch.randn(2, 5, DIMS), random_boxes(2, 5)
    offsets = attention.sampling_offsets(queries).view(2, 5, HEADS, 2, 4, 2)
    locations = (
        boxes[:, :, None, None, None, :2] + offsets / 4 * boxes[:, :, None, None, None, 2:] * 0.5
    )
    weights = attention.attention_weights(queries).view(2, 5, HEADS, 8).softmax(dim=-1)
    memory = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
    expected = multi_scale_deformable_attn_pytorch(
        memory.view(2, -1, HEADS, DIMS // HEADS),
        torch.tensor(sizes),
        locations,
        weights.view(2, 5, HEADS, 2, 4),
    )
    torch.testing.assert_close(attention(queries, boxes, split_heads(maps, HEADS)), expected)


def test_attention__new_one_looks_into_one_direction_per_head() -> None:
    attention = DeformableCrossAttention(8, 4, (2, 1))
    bias = attention.sampling_offsets.bias.view(4, 3, 2)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for point, step in enumerate([1, 2, 1]):
        torch.testing.assert_close(bias[:, point], step * expected)
    eight = DeformableCrossAttention(8, 8, (1,)).sampling_offsets.bias.view(8, 2)
    torch.testing.assert_close(eight[1], torch.tensor([1.0, 1.0]))  # onto a square
    assert not attention.attention_weights.weight.any()
    assert not attention.sampling_offsets.weight.any()


def test_attention__nothing_outside_of_the_image() -> None:
    attention = build(2, 2)
    boxes = torch.tensor([5.0, 5.0, 0.1, 0.1]).expand(2, 3, 4)
    maps = split_heads(random_maps((4, 4), (2, 2)), HEADS)
    assert not attention(torch.randn(2, 3, DIMS), boxes, maps).any()


def test_attention__gradients_to_everything() -> None:
    attention = build(2, 1)
    maps = [x.requires_grad_() for x in random_maps((5, 4), (3, 2))]
    queries = torch.randn(2, 20, DIMS, requires_grad=True)
    attention(queries, random_boxes(2, 20), split_heads(maps, HEADS)).square().sum().backward()
    assert all(x.grad.any() for x in (*maps, queries, *attention.parameters()))


def test_attention__half_precision_keeps_positions_exact() -> None:
    attention = build(3, 2)
    maps = [x.bfloat16() for x in random_maps((80, 80), (40, 40))]
    queries, boxes = torch.randn(2, 4, DIMS), random_boxes(2, 4)
    for linear in (attention.sampling_offsets, attention.attention_weights):
        nn.init.zeros_(linear.weight)  # what is left is the rounding of positions
    expected = attention(queries, boxes, split_heads([x.float() for x in maps], HEADS))
    with torch.autocast('cpu', torch.bfloat16):
        output = attention(queries, boxes, split_heads(maps, HEADS))
    torch.testing.assert_close(output, expected, atol=1e-2, rtol=1e-2)


def test_split_heads__does_not_copy() -> None:
    features = torch.randn(2, DIMS, 4, 3)
    (value_map,) = split_heads([features], HEADS)
    assert value_map.data_ptr() == features.data_ptr()
    assert torch.equal(value_map[3], features[1, DIMS // 2 :])
