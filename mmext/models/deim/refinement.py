"""The decoder's loop: every layer moves the distributions of the boxes' edges and scores the result.

Source: D-FINE (https://arxiv.org/abs/2410.13842, section 4.1), as in DEIMv2 (https://arxiv.org/abs/2509.20787).

Shape letters: B images, N queries, d channels, C classes, R + 1 bins of an edge's distribution.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models.layers.transformer.utils import inverse_sigmoid
from torch import Tensor, nn

from mmext.models.deim.decoder_layer import DecoderLayer
from mmext.models.deim.distribution import UP, QualityEstimate, decode_boxes, make_bin_values
from mmext.models.deim.outputs import BoxOutputs, LayerOutputs


class QueryStart(NamedTuple):
    """Queries before the first layer.

    Attributes:
        content: (B, N, d).
        position: (B, N, d), the same in all layers.
        boxes: (B, N, 4) cxcywh in [0, 1] without gradient.
        blocked: (N, N) bool, True where query row must not see query column; None for nowhere.
    """

    content: Tensor
    position: Tensor
    boxes: Tensor
    blocked: Tensor | None


class PredictionHeads(NamedTuple):
    """What predicts from the queries (B, N, d).

    Attributes:
        pre_bbox: of the first layer, to (B, N, 4): where the reference boxes lie, from where the queries started.
        scores: of each layer, to class logits (B, N, C).
        bboxes: of each layer, to changes of the corner logits (B, N, 4 (R + 1)).
    """

    pre_bbox: nn.Module
    scores: nn.ModuleList
    bboxes: nn.ModuleList


class Refined(NamedTuple):
    """Predictions of the decoder.

    Attributes:
        layers: of every layer in training, of the last one at inference.
        pre: of the first layer before refinement in training, else None.
    """

    layers: list[LayerOutputs]
    pre: BoxOutputs | None


class RefinementDecoder(nn.Module):
    """Decoder layers, each of which looks around the boxes of the one before.

    Args:
        embed_dims: d, a multiple of `num_heads`.
        num_heads: heads of the attentions.
        num_layers: number of layers.
        feedforward_channels: twice the hidden channels of the SwiGLU networks.
        num_points: sampling points of a head on each level, finest first.
        gated: see `DecoderLayer`.
        reg_scale: s, see `distribution`.
        reg_max: R.
    """

    bin_values: Tensor

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        num_layers: int,
        feedforward_channels: int,
        num_points: Sequence[int],
        gated: bool,
        reg_scale: float,
        reg_max: int,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(
                embed_dims,
                num_heads,
                feedforward_channels=feedforward_channels,
                num_points=num_points,
                gated=gated,
            )
            for _ in range(num_layers)
        )
        self.lqe_layers = nn.ModuleList(QualityEstimate() for _ in range(num_layers))
        # The published weights hold the two numbers that W(s) is made of. They are never trained.
        self.up = nn.Parameter(torch.tensor([UP]), requires_grad=False)
        self.reg_scale = nn.Parameter(torch.tensor([float(reg_scale)]), requires_grad=False)
        self.scale = float(reg_scale)
        self.register_buffer(
            'bin_values', make_bin_values(reg_max + 1, self.scale), persistent=False
        )

    def forward(
        self, start: QueryStart, value_maps: Sequence[Tensor], heads: PredictionHeads
    ) -> Refined:
        """Refine queries.

        Args:
            start: queries.
            value_maps: what they look at, see `split_heads`.
            heads: what predicts from them.

        Returns:
            Predictions of every layer in training; at inference the others are not even scored.
        """
        queries, boxes = start.content, start.boxes
        previous = corners = queries.new_zeros(())
        outputs: list[LayerOutputs] = []
        pre = None
        refs = boxes
        for index, layer in enumerate(self.layers):
            queries = layer(
                queries,
                start.position,
                boxes=boxes,
                value_maps=value_maps,
                blocked=start.blocked,
            )
            if index == 0:
                shift = heads.pre_bbox(queries)
                pre_boxes = (shift + inverse_sigmoid(boxes, eps=1e-5)).sigmoid()
                refs = pre_boxes.detach()
                if self.training:
                    pre = BoxOutputs(heads.scores[0](queries), pre_boxes)
            # The sum over the layers keeps its gradient: every layer learns from all that follow.
            corners = heads.bboxes[index](queries + previous) + corners
            boxes = decode_boxes(refs, corners, self.bin_values, self.scale)
            if self.training or index == len(self.layers) - 1:
                logits = heads.scores[index](queries) + self.lqe_layers[index](corners)
                outputs.append(LayerOutputs(logits, boxes, corners, refs, queries))
            previous, boxes = queries.detach(), boxes.detach()
        return Refined(outputs, pre)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse weights whose boxes are measured on another scale than the config's."""
        for name, own in (('up', UP), ('reg_scale', self.scale)):
            loaded = state_dict.get(prefix + name)
            if loaded is not None and float(loaded) != own:
                raise ValueError(
                    f'RefinementDecoder: got weights with {name}={float(loaded):g}, expected {own:g}. '
                    "Set the decoder's reg_scale to that of the weights."
                )
        super()._load_from_state_dict(state_dict, prefix, *args)
