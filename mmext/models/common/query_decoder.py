"""A fixed set of queries, each of which becomes one object: its class and its mask (Mask2Former on a PAN neck).

Source: https://arxiv.org/abs/2112.01527. What differs: no pixel decoder, the neck has fused the levels already;
mask features by a top-down sum; queries may start from detections.

Shape letters: B images, Q queries, C classes, d embedding channels, A positions over all levels, L layers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule
from mmdet.models.layers import SinePositionalEncoding
from mmdet.models.layers.transformer.utils import MLP
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.masked_attention import (
    MaskedDecoderLayer,
    find_outside,
    find_outside_boxes,
)
from mmext.models.common.position import BoxPositionEncoding
from mmext.models.common.query_outputs import QueryOutputs, QuerySeeds
from mmext.registry import MODELS


@MODELS.register_module()
class QueryMaskDecoder(nn.Module):
    """Queries that look at one feature level after another, coarsest first, each inside its own last mask.

    Args:
        num_classes: C; the class head has one output more, "no object".
        in_channels: channels of each feature level, finest first.
        embed_dims: d, a multiple of 4 and of `num_heads`.
        num_heads: heads of the attentions.
        num_queries: learned queries; 0 for a decoder whose queries start from detections.
        num_layers: L. Level l modulo the number of levels is seen by layer l.
        feedforward_channels: hidden channels of the feed-forward networks.
        num_box_layers: layers, from the first, in which a query that starts from a detection looks inside its box, half
            as long again, and not inside its own mask, which is noise early in training.

    Raises:
        ValueError: `embed_dims` does not suit the heads or the position encodings, or there are layers that look
            inside boxes, which learned queries have not.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        *,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_queries: int = 100,
        num_layers: int = 6,
        feedforward_channels: int = 1024,
        num_box_layers: int = 0,
    ) -> None:
        super().__init__()
        if embed_dims % 4:
            raise ValueError(
                f'QueryMaskDecoder: got embed_dims={embed_dims}, expected a multiple of 4: a sine and a cosine '
                'along each axis.'
            )
        if num_box_layers and num_queries:
            raise ValueError(
                f'QueryMaskDecoder: got num_box_layers={num_box_layers} and num_queries={num_queries}, expected one of '
                'them to be 0: learned queries have no boxes to look inside.'
            )
        self.embed_dims = embed_dims
        self.num_box_layers = num_box_layers
        self.input_proj = nn.ModuleList(
            ConvModule(channels, embed_dims, 1, norm_cfg=group_norm(embed_dims), act_cfg=None)
            for channels in in_channels
        )
        self.mask_feature_proj = MaskFeatureProjection(embed_dims)
        self.position = SinePositionalEncoding(embed_dims // 2, normalize=True)
        self.level_embed = nn.Parameter(torch.randn(len(in_channels), embed_dims))
        self.queries: LearnedQueries | SeededQueries = (
            LearnedQueries(num_queries, embed_dims) if num_queries else SeededQueries(embed_dims)
        )
        self.layers = nn.ModuleList(
            MaskedDecoderLayer(embed_dims, num_heads, feedforward_channels)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dims)
        self.class_head = nn.Linear(embed_dims, num_classes + 1)
        self.mask_head = MLP(embed_dims, embed_dims, embed_dims, num_layers=3)

    def forward(self, features: Sequence[Tensor], seeds: QuerySeeds | None = None) -> QueryOutputs:
        """Decode an image's objects.

        Args:
            features: (B, C_l, H_l, W_l) of each level, finest first. Masks get twice the finest level's size.
            seeds: detections to start from, for a decoder with `num_queries=0`; None for one with learned queries.

        Returns:
            Classes and mask embeddings before the first layer and after every layer in training, after the last
            layer in eval mode.

        Raises:
            ValueError: seeds where queries are learned, or none where they are not.
        """
        levels = [project(x) for project, x in zip(self.input_proj, features, strict=True)]
        mask_features = self.mask_feature_proj(levels)
        queries, query_pos, ignored = self.queries(levels, seeds)
        keys = [
            self._make_keys(level, embed, mask_features)
            for level, embed in zip(levels[::-1], self.level_embed.flip(0), strict=True)
        ]

        class_logits: list[Tensor] = []
        mask_embeddings: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            normed = self.norm(queries)
            embeddings = self.mask_head(normed)
            if self.training:
                class_logits.append(self.class_head(normed))
                mask_embeddings.append(embeddings)
            seen = keys[index % len(keys)]
            if seeds is not None and index < self.num_box_layers:
                blocked = find_outside_boxes(seeds.boxes, seen.size)
            else:
                blocked = find_outside(embeddings, seen.mask_features)
            queries = layer(
                queries,
                seen.content,
                query_pos=query_pos,
                key_pos=seen.position,
                blocked=blocked,
                ignored=ignored,
            )
        normed = self.norm(queries)
        class_logits.append(self.class_head(normed))
        mask_embeddings.append(self.mask_head(normed))
        return QueryOutputs(class_logits, mask_embeddings, normed, mask_features)

    def _make_keys(self, level: Tensor, embed: Tensor, mask_features: Tensor) -> '_Keys':
        """Keys of a level (B, d, h, w) with its embedding (d,)."""
        position = self.position(mask=None, input=level[:1]).to(level.dtype)
        resized = functional.interpolate(
            mask_features.detach(), level.shape[2:], mode='bilinear', align_corners=False
        )
        return _Keys(
            level.flatten(2).transpose(1, 2) + embed,
            position.flatten(2).transpose(1, 2),
            resized.flatten(2),
            (level.shape[2], level.shape[3]),
        )


class _Keys(NamedTuple):
    """A feature level as the attention wants it.

    Attributes:
        content: (B, hw, d).
        position: (1, hw, d).
        mask_features: (B, d, hw) at the level's size, without gradient.
        size: (h, w).
    """

    content: Tensor
    position: Tensor
    mask_features: Tensor
    size: tuple[int, int]


class QueryStart(NamedTuple):
    """What queries are before the first layer.

    Attributes:
        content: (B, Q, d).
        position: (B, Q, d), added to the content in every attention.
        ignored: (B, Q) bool, True for queries that only fill the batch up; None where there are none.
    """

    content: Tensor
    position: Tensor
    ignored: Tensor | None


class LearnedQueries(nn.Module):
    """The same queries for every image.

    Args:
        num_queries: Q.
        embed_dims: d.
    """

    def __init__(self, num_queries: int, embed_dims: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(num_queries, embed_dims))
        self.position = nn.Parameter(torch.randn(num_queries, embed_dims))

    def forward(self, levels: Sequence[Tensor], seeds: QuerySeeds | None) -> QueryStart:
        if seeds is not None:
            raise ValueError(
                f'QueryMaskDecoder: got seeds, expected none with num_queries={len(self.content)} learned '
                'queries. Set num_queries=0 to start from detections.'
            )
        batch = len(levels[0])
        return QueryStart(
            self.content.expand(batch, -1, -1), self.position.expand(batch, -1, -1), None
        )


class SeededQueries(nn.Module):
    """One query for each detection: its content is the feature that the detection came from, its position the box.

    Args:
        embed_dims: d.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.box_position = BoxPositionEncoding(embed_dims)

    def forward(self, levels: Sequence[Tensor], seeds: QuerySeeds | None) -> QueryStart:
        if seeds is None:
            raise ValueError(
                'QueryMaskDecoder: got no seeds, expected some with num_queries=0. Give detections, or set '
                'num_queries=100 to learn queries.'
            )
        places = torch.cat([level.flatten(2) for level in levels], dim=2)  # B x d x A
        chosen = seeds.priors[:, None].expand(-1, places.shape[1], -1)
        content = places.gather(2, chosen).transpose(1, 2)
        # nn.MultiheadAttention cannot reshape the mask of no queries at all.
        ignored = ~seeds.valid if seeds.valid.numel() else None
        return QueryStart(content, self.box_position(seeds.boxes), ignored)


class MaskFeatureProjection(nn.Module):
    """Features that mask embeddings are multiplied with, at twice the finest level's size.

    Top-down sum of the levels, 3x3, transposed 2x2 / 2, 1x1. The transposed convolution, where an interpolation
    would do too, lets masks have detail below the finest level's stride: behind an interpolation come only linear
    maps, so every mask would be one of a quarter of its pixels, blown up.

    Args:
        embed_dims: channels of the levels and of the result.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.smooth = ConvModule(
            embed_dims, embed_dims, 3, padding=1, norm_cfg=group_norm(embed_dims)
        )
        self.upsample = ConvModule(
            embed_dims,
            embed_dims,
            2,
            stride=2,
            conv_cfg=dict(type='deconv'),
            norm_cfg=group_norm(embed_dims),
        )
        self.project = nn.Conv2d(embed_dims, embed_dims, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (B, d, H_l, W_l), finest first, to (B, d, 2 H_0, 2 W_0)."""
        *finer, total = levels
        for level in reversed(finer):
            total = level + functional.interpolate(
                total, level.shape[2:], mode='bilinear', align_corners=False
            )
        return self.project(self.upsample(self.smooth(total)))


def group_norm(channels: int) -> dict:
    """Config of a group norm of 32 groups, or of as many as divide a small number of channels."""
    return dict(type='GN', num_groups=math.gcd(32, channels))
