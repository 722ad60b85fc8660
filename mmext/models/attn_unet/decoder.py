"""Decoder of the Attention U-Net: from the coarsest map of an encoder upwards, each skip connection through a gate.

Source: Attention U-Net (https://arxiv.org/abs/1804.03999); the layout of the stages is that of the U-Nets with a
pre-trained encoder, whose last stage has no skip connection.

Shapes: N batch; map i of the encoder has C_i channels and the stride 2 ** (i + 1).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# Input channels, output channels -> module.
BlockFactory = Callable[[int, int], nn.Module]
# Channels of the skip connection and of the gating map -> gate.
GateFactory = Callable[[int, int], nn.Module]


class DecoderOutputs(NamedTuple):
    """What the decoder returns.

    Attributes:
        stages: map of each stage, coarsest first; the last is the one to classify.
        attention: (N, 1, H, W) weights of each gate, coarsest first.
    """

    stages: list[Tensor]
    attention: list[Tensor]


class DecoderStage(nn.Module):
    """Enlarges a map, joins the gated skip connection, and convolves.

    Args:
        in_channels: of the map that comes from below.
        skip_channels: of the skip connection, 0 if there is none: then the map is enlarged to twice its size.
        out_channels: of the result.
        gate: makes the gate.
        block: makes the convolutions.
        dropout: share of the channels of the skip connection that are dropped in training.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        gate: GateFactory,
        block: BlockFactory,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.gate = gate(skip_channels, in_channels) if skip_channels else None
        self.block = block(in_channels + skip_channels, out_channels)

    def forward(self, below: Tensor, skip: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """From below (N, C, h, w) and skip (N, Cx, H, W): (N, out_channels, H, W), and the gate's weights."""
        if self.gate is None or skip is None:
            enlarged = functional.interpolate(
                below, scale_factor=2, mode='bilinear', align_corners=False
            )
            return self.block(enlarged), None
        gated = self.gate(self.dropout(skip), below)
        enlarged = functional.interpolate(
            below, size=skip.shape[2:], mode='bilinear', align_corners=False
        )
        joined = torch.cat((gated.features, enlarged), dim=1)
        return self.block(joined), gated.attention


class AttentionDecoder(nn.Module):
    """All stages: as many as the encoder has maps, the last one without a skip connection.

    Args:
        in_channels: C_i of the encoder's maps, finest first.
        stage_channels: of each stage's result, coarsest first; as many as `in_channels`.
        gate: makes a gate from the channels of the skip connection and of the gating map.
        block: makes the convolutions of a stage from its channels in and out.
        centre: makes what reduces the coarsest map.
        skip_dropout: share of the channels of each skip connection that are dropped in training.
        centre_dropout: the same for the coarsest map.

    Raises:
        ValueError: the numbers of maps and of stages differ.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        stage_channels: Sequence[int],
        *,
        gate: GateFactory,
        block: BlockFactory,
        centre: BlockFactory,
        skip_dropout: float = 0.1,
        centre_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if len(stage_channels) != len(in_channels) or len(in_channels) < 2:
            raise ValueError(
                f'AttentionDecoder: got {len(stage_channels)} stage_channels {tuple(stage_channels)} for '
                f'{len(in_channels)} maps of the encoder, expected as many as maps and at least 2: one stage for each '
                'skip connection and a last one without'
            )
        *skips, bottom = in_channels
        self.centre = nn.Sequential(centre(bottom, stage_channels[0]), nn.Dropout2d(centre_dropout))
        below = (stage_channels[0], *stage_channels[:-1])
        self.stages = nn.ModuleList(
            DecoderStage(own, skip, out, gate=gate, block=block, dropout=skip_dropout)
            for own, skip, out in zip(below, (*reversed(skips), 0), stage_channels, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> DecoderOutputs:
        """Decode the maps of an encoder, finest first."""
        *skips, bottom = features
        current = self.centre(bottom)
        stages, attention = [], []
        for stage, skip in zip(self.stages, (*reversed(skips), None), strict=True):
            current, weights = stage(current, skip)
            stages.append(current)
            if weights is not None:
                attention.append(weights)
        return DecoderOutputs(stages, attention)
