"""Configs and weights of the parts of each DEIMv2 size, and the size that a state dict belongs to."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor

from mmext.models.deim.variants import NUM_HEADS, REG_MAX, VARIANTS, Variant
from mmext.registry import MODELS

# Stage of HGNetv2, counted from 0, that has this stride.
_STAGES = {8: 1, 16: 2}


class Detected(NamedTuple):
    """What names and shapes say about a state dict.

    Attributes:
        name: A key of `VARIANTS`.
        num_classes: Number of classes C.
    """

    name: str
    num_classes: int

    @property
    def variant(self) -> Variant:
        """The row of the table."""
        return VARIANTS[self.name]

    @property
    def title(self) -> str:
        """The name as published: 'DEIMv2-S', 'DEIMv2-HG-M', 'DEIMv2-Atto'."""
        if self.name.startswith('hg'):
            return f'DEIMv2-HG-{self.name[2:].upper()}'
        return f'DEIMv2-{self.name.upper() if len(self.name) == 1 else self.name.capitalize()}'


class Naming(NamedTuple):
    """Names that tell the sizes apart; `{}` stands for a number.

    Attributes:
        queries: Weight of each decoder layer with d columns.
        maps: Weights of which one exists, with as many input channels as the encoder has.
        transformer: Prefix of a DINOv3 backbone.
        scores: Weight with a row per class.
    """

    queries: str
    maps: tuple[str, str]
    transformer: str
    scores: str


OFFICIAL = Naming(
    queries='decoder.decoder.layers.{}.self_attn.in_proj_weight',
    maps=('encoder.fpn_blocks.0.cv1.conv.weight', 'encoder.fpn_block.cv1.conv.weight'),
    transformer='backbone.dinov3.',
    scores='decoder.enc_score_head.weight',
)
TRANSFORMERS = Naming(
    queries='model.decoder.layers.{}.self_attn.q_proj.weight',
    maps=('model.encoder.fpn_blocks.0.conv1.conv.weight', 'model.encoder.fpn_block.conv1.conv.weight'),
    transformer='model.conv_encoder.backbone.',
    scores='model.enc_score_head.weight',
)  # fmt: skip


def detect_variant(state_dict: Mapping[str, Tensor], naming: Naming) -> Detected:
    """Recognise size and number of classes from names and shapes alone.

    Args:
        state_dict: Tensors under the names of `naming`.
        naming: `OFFICIAL` or `TRANSFORMERS`.

    Raises:
        ValueError: It is not a DEIMv2 model of one of the twelve sizes.
    """
    needed = (naming.queries.format(0), naming.scores)
    missing = [name for name in needed if name not in state_dict]
    maps = next((name for name in naming.maps if name in state_dict), None)
    if missing or maps is None:
        raise ValueError(
            f'not a DEIMv2 model: no {", ".join(missing or naming.maps[:1])} among {len(state_dict)} '
            f'tensors ({", ".join(list(state_dict)[:3])}, ...)'
        )
    layer = re.compile(re.escape(naming.queries).replace(r'\{\}', r'\d+'))
    backbone = 'hgnetv2'
    if any(name.startswith(naming.transformer) for name in state_dict):
        backbone = 'dinov3_sta'
    found = (
        backbone,
        state_dict[maps].shape[1],
        state_dict[needed[0]].shape[1],
        sum(layer.fullmatch(name) is not None for name in state_dict),
    )
    known = {name: _distinction(variant) for name, variant in VARIANTS.items()}
    for name, distinction in known.items():
        if distinction == found:
            return Detected(name, state_dict[naming.scores].shape[0])
    listed = '; '.join(f'{name}: {distinction}' for name, distinction in known.items())
    raise ValueError(
        f'no size of DEIMv2 has (backbone, channels of the encoder, of the decoder, decoder layers) = '
        f'{found}; known are {listed}'
    )


@cache
def expected_shapes(detected: Detected) -> Mapping[str, Size]:
    """Names and shapes of the state dict of mmext's detector."""
    with torch.device('meta'):
        parts = {
            name: MODELS.build(config)
            for name, config in part_configs(detected.variant, detected.num_classes).items()
        }
    return {
        f'{part}.{name}': tensor.shape
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def part_configs(variant: Variant, num_classes: int) -> dict[str, dict[str, Any]]:
    """Configs of `backbone`, `neck` and `decoder`, as far as they shape the weights or what they compute."""
    return dict(
        backbone=_backbone_config(variant),
        neck=_neck_config(variant),
        decoder=dict(
            type='mmext.DEIMTransformer',
            num_classes=num_classes,
            in_channels=[variant.encoder_channels] * len(variant.strides),
            embed_dims=variant.decoder_channels,
            num_queries=variant.num_queries,
            num_layers=variant.num_decoder_layers,
            num_heads=NUM_HEADS,
            feedforward_channels=variant.decoder_ffn_channels,
            num_points=list(variant.num_points),
            gated=variant.gated,
            shares_bbox_head=variant.shares_bbox_head,
            reg_scale=variant.reg_scale,
            reg_max=REG_MAX,
        ),
    )


def _backbone_config(variant: Variant) -> dict[str, Any]:
    if variant.backbone == 'dinov3_sta':
        return dict(
            type='mmext.DINOv3STA',
            arch=variant.arch,
            sta_channels=variant.sta_channels,
            out_channels=variant.encoder_channels,
        )
    first = _STAGES[variant.strides[0]]
    return dict(
        type='mmext.HGNetv2',
        arch=variant.arch,
        out_indices=list(range(first, first + len(variant.backbone_channels))),
    )


def _neck_config(variant: Variant) -> dict[str, Any]:
    config = dict(
        in_channels=list(variant.backbone_channels),
        out_channels=variant.encoder_channels,
        block=variant.block,
        csp_channels=variant.csp_channels,
        num_csp_blocks=variant.num_csp_blocks,
    )
    if variant.encoder == 'lite':
        return dict(type='mmext.LiteEncoder', **config)
    return dict(
        type='mmext.HybridEncoder',
        ffn_channels=variant.encoder_ffn_channels,
        num_heads=NUM_HEADS,
        **config,
    )


def _distinction(variant: Variant) -> tuple[str, int, int, int]:
    """What tells a size from all others."""
    return (
        variant.backbone,
        variant.encoder_channels,
        variant.decoder_channels,
        variant.num_decoder_layers,
    )
