"""The DEIM transformer written out a second time, straight from its description, as loops over images.

It takes the parts' parameters by name and shares no code with `mmext.models.deim`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

HEADS = 8


class Weights:
    """Entries of a state dict below a prefix."""

    def __init__(self, entries: dict[str, Tensor], prefix: str = '') -> None:
        self.entries, self.prefix = entries, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.entries[self.prefix + name]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.entries

    def below(self, prefix: str) -> 'Weights':
        return Weights(self.entries, self.prefix + prefix + '.')

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self[f'{name}.weight'].T + self[f'{name}.bias']

    def mlp(self, name: str, x: Tensor, num_layers: int = 3) -> Tensor:
        for i in range(num_layers):
            x = self.linear(f'{name}.layers.{i}', x)
            x = x * x.sigmoid() if i < num_layers - 1 else x
        return x

    def norm(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self[f'{name}.scale']


class SlowLayer(NamedTuple):
    logits: Tensor
    boxes: Tensor
    corners: Tensor


class SlowOutputs(NamedTuple):
    encoder: tuple[Tensor, Tensor]
    pre: tuple[Tensor, Tensor]
    layers: list[SlowLayer]


def anchors_of(sizes: list[tuple[int, int]]) -> Tensor:
    rows = [
        [(j + 0.5) / width, (i + 0.5) / height, 0.05 * 2**level, 0.05 * 2**level]
        for level, (height, width) in enumerate(sizes)
        for i in range(height)
        for j in range(width)
    ]
    return torch.tensor(rows)


def run_image(weights: Weights, maps: list[Tensor], num_queries: int, scale: float) -> SlowOutputs:
    """Training outputs for one image's maps (d, H, W), without denoising."""
    memory = torch.cat([x.flatten(1).T for x in maps])
    anchors = anchors_of([x.shape[1:] for x in maps])
    valid = ((anchors > 0.01) & (anchors < 0.99)).all(1)
    kept = memory * valid[:, None]
    logits = weights.linear('enc_score_head', kept)
    order = logits.max(1).values.argsort(descending=True)[:num_queries]
    start = (anchors / (1 - anchors)).log()
    start[~valid] = math.inf
    unbounded = start[order] + weights.mlp('enc_bbox_head', kept[order])
    boxes = unbounded.sigmoid()
    layers, pre = _refine(weights, maps, kept[order], boxes, scale)
    return SlowOutputs((logits[order], boxes), pre, layers)


def _refine(
    weights: Weights, maps: list[Tensor], queries: Tensor, boxes: Tensor, scale: float
) -> tuple[list[SlowLayer], tuple[Tensor, Tensor]]:
    position = weights.mlp('query_pos_head', boxes).clamp(-10, 10)
    previous, corners = torch.zeros_like(queries), torch.zeros(())
    layers: list[SlowLayer] = []
    while f'decoder.layers.{len(layers)}.norm1.scale' in weights:
        i = len(layers)
        queries = _layer(weights.below(f'decoder.layers.{i}'), queries, position, boxes, maps)
        if i == 0:
            logit = (boxes.clamp(min=1e-5) / (1 - boxes).clamp(min=1e-5)).log()
            refs = (weights.mlp('pre_bbox_head', queries) + logit).sigmoid()
            pre = (weights.linear('dec_score_head.0', queries), refs)
        corners = weights.mlp(f'dec_bbox_head.{i}', queries + previous) + corners
        probability = corners.view(len(queries), 4, -1).softmax(-1)
        boxes = _decode(refs, probability @ bin_values(scale, probability.shape[-1]), scale)
        peaks = probability.sort(dim=-1, descending=True).values[..., :4]
        peaks = torch.cat([peaks, peaks.sum(-1, keepdim=True) / 4], -1).flatten(1)
        quality = weights.mlp(f'decoder.lqe_layers.{i}.reg_conf', peaks, 2)
        logits = weights.linear(f'dec_score_head.{i}', queries) + quality
        layers.append(SlowLayer(logits, boxes, corners))
        previous = queries
    return layers, pre


def bin_values(scale: float, num_bins: int) -> Tensor:
    reach, count = 0.5 * scale, num_bins // 2 - 1
    step = (reach + 1) ** (1 / count)
    below = [1 - step**k for k in range(count, 0, -1)]
    above = [step**k - 1 for k in range(1, count + 1)]
    return torch.tensor([-2 * reach, *below, 0.0, *above, 2 * reach])


def _decode(refs: Tensor, distances: Tensor, scale: float) -> Tensor:
    cx, cy, width, height = refs.unbind(1)
    left, top, right, bottom = distances.unbind(1)
    x1, x2 = cx - (scale / 2 + left) * width / scale, cx + (scale / 2 + right) * width / scale
    y1, y2 = cy - (scale / 2 + top) * height / scale, cy + (scale / 2 + bottom) * height / scale
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1)


def _layer(
    weights: Weights, queries: Tensor, position: Tensor, boxes: Tensor, maps: list[Tensor]
) -> Tensor:
    queries = weights.norm('norm1', queries + _self_attention(weights, queries, position))
    gathered = _cross_attention(weights.below('cross_attn'), queries + position, boxes, maps)
    if 'gateway.gate.weight' in weights:
        gates = weights.linear('gateway.gate', torch.cat([queries, gathered], 1)).sigmoid()
        width = queries.shape[1]
        mixed = gates[:, :width] * queries + gates[:, width:] * gathered
        queries = weights.norm('gateway.norm', mixed)
    else:
        queries = weights.norm('norm2', queries + gathered)
    first, second = weights.linear('swish_ffn.w12', queries).chunk(2, 1)
    forward = weights.linear('swish_ffn.w3', first * first.sigmoid() * second)
    return weights.norm('norm3', queries + forward)


def _self_attention(weights: Weights, queries: Tensor, position: Tensor) -> Tensor:
    width = queries.shape[1]
    projections = weights['self_attn.in_proj_weight'].split(width)
    biases = weights['self_attn.in_proj_bias'].split(width)
    placed = queries + position
    q, k, v = (
        x @ w.T + b for x, w, b in zip((placed, placed, queries), projections, biases, strict=True)
    )
    part = width // HEADS
    outputs = []
    for head in range(HEADS):
        own = slice(head * part, (head + 1) * part)
        attention = (q[:, own] @ k[:, own].T / part**0.5).softmax(1)
        outputs.append(attention @ v[:, own])
    return weights.linear('self_attn.out_proj', torch.cat(outputs, 1))


def _cross_attention(
    weights: Weights, queries: Tensor, boxes: Tensor, maps: list[Tensor]
) -> Tensor:
    """Samples by `grid_sample` a head and level at a time; `test_deim_cross_attention.py` goes cell by cell."""
    count, width = queries.shape
    offsets = weights.linear('sampling_offsets', queries).view(count, HEADS, -1, 2)
    attention = weights.linear('attention_weights', queries).view(count, HEADS, -1).softmax(-1)
    scales = weights['num_points_scale']
    places = boxes[:, None, None, :2] + 0.5 * offsets * scales[:, None] * boxes[:, None, None, 2:]
    part = width // HEADS
    output = torch.zeros_like(queries)
    for head in range(HEADS):
        own, begin = slice(head * part, (head + 1) * part), 0
        for level in maps:
            points = round(1 / float(scales[begin]))
            span = slice(begin, begin + points)
            sampled = functional.grid_sample(
                level[None, own], 2 * places[None, :, head, span] - 1, align_corners=False
            )  # 1 x part x count x points
            output[:, own] = output[:, own] + (sampled[0] * attention[:, head, span]).sum(-1).T
            begin += points
    return output
