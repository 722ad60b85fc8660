"""The DEIM transformer: queries selected from the feature maps, refined layer by layer into classes and boxes.

Source: DEIMv2 (https://arxiv.org/abs/2509.20787), whose decoder is D-FINE's (https://arxiv.org/abs/2410.13842) with
SwiGLU and RMSNorm, without projections around the deformable attention, without a projection of the memory, and with
a position of the queries that is computed once. Attributes are called as in the published weights.

Shape letters: B images, Q matching queries, D denoising queries, N = D + Q, K places over all levels, d channels,
C classes, R + 1 bins of an edge's distribution.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from mmdet.models.layers.transformer.utils import inverse_sigmoid
from torch import Tensor, nn

from mmext.models.deim.cross_attention import split_heads
from mmext.models.deim.denoising import NoisyObjects, block_groups, make_noisy_objects
from mmext.models.deim.layers import ConvNorm
from mmext.models.deim.outputs import (
    BoxOutputs,
    DecoderOutputs,
    DenoisingOutputs,
    ImageTargets,
    LayerOutputs,
)
from mmext.models.deim.perceptrons import MLP
from mmext.models.deim.query_selection import get_anchors, select_places, take
from mmext.models.deim.refinement import PredictionHeads, QueryStart, RefinementDecoder
from mmext.registry import MODELS

# Probability of every class in a new network.
_PRIOR_PROBABILITY = 0.01


@MODELS.register_module()
class DEIMTransformer(nn.Module):
    """Query selection, denoising queries and the decoder of DEIMv2.

    Args:
        num_classes: C.
        in_channels: channels of each feature level, finest first.
        embed_dims: d, a multiple of `num_heads`.
        num_queries: Q; a small image has as many as it has places.
        num_layers: decoder layers.
        num_heads: heads of all attentions.
        feedforward_channels: twice the hidden channels of the SwiGLU networks.
        num_points: sampling points of a head on each level, finest first.
        gated: whether a gate joins the queries with what they gathered from the image, instead of a sum.
        shares_bbox_head: whether all layers have one and the same box head.
        reg_scale: s, the reach of the box distributions (see `distribution`).
        reg_max: R.
        num_denoising: denoising positives of an image, 0 for no denoising.

    Raises:
        ValueError: channels and heads, or levels and points, do not fit together.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        *,
        embed_dims: int,
        num_queries: int,
        num_layers: int,
        feedforward_channels: int,
        num_points: Sequence[int],
        gated: bool,
        shares_bbox_head: bool,
        reg_scale: float,
        num_heads: int = 8,
        reg_max: int = 32,
        num_denoising: int = 100,
    ) -> None:
        super().__init__()
        _check_arguments(in_channels, embed_dims, num_heads, num_points)
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.num_heads = num_heads
        self.num_denoising = num_denoising
        self.input_proj = nn.ModuleList(
            _make_projection(channels, embed_dims) for channels in in_channels
        )
        self.enc_score_head = _make_score_head(embed_dims, num_classes)
        self.enc_bbox_head = MLP(embed_dims, embed_dims, embed_dims, 4, starts_at_zero=True)
        self.denoising_class_embed = nn.Embedding(
            num_classes + 1, embed_dims, padding_idx=num_classes
        )
        self.query_pos_head = MLP(4, embed_dims, embed_dims, embed_dims)
        self.decoder = RefinementDecoder(
            embed_dims,
            num_heads,
            num_layers=num_layers,
            feedforward_channels=feedforward_channels,
            num_points=num_points,
            gated=gated,
            reg_scale=reg_scale,
            reg_max=reg_max,
        )
        # The published weights have these two here as well.
        self.up, self.reg_scale = self.decoder.up, self.decoder.reg_scale
        self.pre_bbox_head = MLP(embed_dims, embed_dims, embed_dims, 4, starts_at_zero=True)
        self.dec_score_head = nn.ModuleList(
            _make_score_head(embed_dims, num_classes) for _ in range(num_layers)
        )
        self.dec_bbox_head = _make_bbox_heads(
            embed_dims, 4 * (reg_max + 1), num_layers, shared=shares_bbox_head
        )

    def forward(
        self, features: Sequence[Tensor], targets: Sequence[ImageTargets] | None = None
    ) -> DecoderOutputs:
        """Predict objects.

        Args:
            features: (B, C_l, H_l, W_l) of each level, finest first.
            targets: objects of every image, for denoising in training; None for none.

        Returns:
            In training everything that losses compare, at inference the last layer.
        """
        levels = [project(x) for project, x in zip(self.input_proj, features, strict=True)]
        chosen = self._select_queries(levels)
        noisy = self._make_noise(targets)
        heads = PredictionHeads(self.pre_bbox_head, self.dec_score_head, self.dec_bbox_head)
        refined = self.decoder(
            self._start(chosen, noisy), split_heads(levels, self.num_heads), heads
        )

        num_denoising = 0 if noisy is None else noisy.labels.shape[1]
        matching = slice(num_denoising, None)
        denoising = None
        if noisy is not None and refined.pre is not None:
            rows = slice(num_denoising)
            denoising = DenoisingOutputs(
                tuple(_rows(layer, rows) for layer in refined.layers),
                _rows(refined.pre, rows),
                noisy.matches,
            )
        return DecoderOutputs(
            layers=tuple(_rows(layer, matching) for layer in refined.layers),
            encoder=chosen.outputs if self.training else None,
            pre=None if refined.pre is None else _rows(refined.pre, matching),
            denoising=denoising,
            bin_values=self.decoder.bin_values,
            reg_scale=self.decoder.scale,
        )

    def _select_queries(self, levels: Sequence[Tensor]) -> '_Chosen':
        """The places with the highest class scores, of maps (B, d, H_l, W_l)."""
        anchors = get_anchors(
            tuple((int(x.shape[2]), int(x.shape[3])) for x in levels), levels[0].device
        )
        # Transposed as a whole: a view, where joining transposed maps would copy across memory.
        memory = torch.cat([x.flatten(2) for x in levels], dim=2).transpose(1, 2)  # B x K x d
        # The memory of places without an anchor counts as 0, of which a linear layer makes its bias.
        logits = self.enc_score_head(memory)
        logits = logits.where(anchors.valid, self.enc_score_head.bias.to(logits.dtype))
        places = select_places(logits, self.num_queries)

        batch = len(memory)
        content = take(places, memory) * take(places, anchors.valid.expand(batch, -1, -1))
        box_logits = self.enc_bbox_head(content) + take(
            places, anchors.logits.expand(batch, -1, -1)
        )
        outputs = BoxOutputs(take(places, logits), box_logits.sigmoid())
        return _Chosen(content.detach(), box_logits.detach(), outputs)

    def _make_noise(self, targets: Sequence[ImageTargets] | None) -> NoisyObjects | None:
        """Denoising queries, in training and where objects are given, be it none at all."""
        if not self.training or targets is None or not self.num_denoising:
            return None
        return make_noisy_objects(targets, self.num_classes, self.num_denoising)

    def _start(self, chosen: '_Chosen', noisy: NoisyObjects | None) -> QueryStart:
        """All queries before the first layer, denoising queries first."""
        content, box_logits = chosen.content, chosen.box_logits
        blocked = None
        if noisy is not None:
            embedded = self.denoising_class_embed(noisy.labels).to(content.dtype)
            content = torch.cat([embedded, content], dim=1)
            box_logits = torch.cat([inverse_sigmoid(noisy.boxes, eps=1e-5), box_logits], dim=1)
            blocked = block_groups(
                chosen.content.shape[1],
                noisy.labels.shape[1],
                noisy.matches.num_groups,
                content.device,
            )
        elif self.training:
            # A gradient of 0: distributed training wants one for every parameter.
            content = content + 0 * self.denoising_class_embed.weight.sum()
        boxes = box_logits.sigmoid()
        position = self.query_pos_head(boxes.to(content.dtype)).clamp(-10, 10)
        return QueryStart(content, position, boxes, blocked)


class _Chosen(NamedTuple):
    """Selected queries.

    Attributes:
        content: (B, Q, d) without gradient.
        box_logits: (B, Q, 4) inverse sigmoid of cxcywh, without gradient.
        outputs: the predictions they were selected by, with gradient.
    """

    content: Tensor
    box_logits: Tensor
    outputs: BoxOutputs


_Outputs = TypeVar('_Outputs', BoxOutputs, LayerOutputs)


def _rows(outputs: _Outputs, rows: slice) -> _Outputs:
    """The outputs of some of the queries."""
    return type(outputs)(*(part[:, rows] for part in outputs))


def _make_projection(in_channels: int, embed_dims: int) -> nn.Module:
    """1x1 convolution and batch norm to d channels; nothing where there are d already."""
    if in_channels == embed_dims:
        return nn.Identity()
    projection = ConvNorm(in_channels, embed_dims)
    nn.init.xavier_uniform_(projection.conv.weight)
    return projection


def _make_score_head(embed_dims: int, num_classes: int) -> nn.Linear:
    """Linear layer whose scores start near 0.01."""
    head = nn.Linear(embed_dims, num_classes)
    nn.init.constant_(head.bias, -math.log(1 / _PRIOR_PROBABILITY - 1))
    return head


def _make_bbox_heads(
    embed_dims: int, out_channels: int, num_layers: int, *, shared: bool
) -> nn.ModuleList:
    """One head for each layer; a shared one appears under every index, as in the published weights."""
    heads = [
        MLP(embed_dims, embed_dims, embed_dims, out_channels, starts_at_zero=True)
        for _ in range(1 if shared else num_layers)
    ]
    return nn.ModuleList(heads * num_layers if shared else heads)


def _check_arguments(
    in_channels: Sequence[int], embed_dims: int, num_heads: int, num_points: Sequence[int]
) -> None:
    if embed_dims % num_heads:
        raise ValueError(
            f'DEIMTransformer: got embed_dims={embed_dims}, expected a multiple of '
            f'num_heads={num_heads}. Change one of them.'
        )
    if len(num_points) != len(in_channels):
        raise ValueError(
            f'DEIMTransformer: got num_points={tuple(num_points)} for {len(in_channels)} feature '
            'levels, expected one number per level.'
        )
