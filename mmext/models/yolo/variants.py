"""The published YOLOv8-seg and YOLO11-seg models: five sizes each, recognised by their shapes."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmext.models.common.layers import scale_channels, scale_depth
from mmext.registry import MODELS


class Scale(NamedTuple):
    """Factors of a model size, see `CSPBackbone`."""

    deepen_factor: float
    widen_factor: float
    max_channels: int


SCALES: dict[str, dict[str, Scale]] = {
    'v8': {
        'n': Scale(0.33, 0.25, 1024),
        's': Scale(0.33, 0.5, 1024),
        'm': Scale(0.67, 0.75, 768),
        'l': Scale(1.0, 1.0, 512),
        'x': Scale(1.0, 1.25, 512),
    },
    'v11': {
        'n': Scale(0.5, 0.25, 1024),
        's': Scale(0.5, 0.5, 1024),
        'm': Scale(0.5, 1.0, 512),
        'l': Scale(1.0, 1.0, 512),
        'x': Scale(1.0, 1.5, 512),
    },
}
# Base depth of the first chain of the backbone: with the width of the stem it tells every size.
_FIRST_DEPTH = {'v8': 3, 'v11': 2}
# Number of the head among the published layers.
HEAD_NUMBERS = {'v8': 22, 'v11': 23}


class Variant(NamedTuple):
    """What the shapes of a state dict say about its model."""

    version: str
    size: str
    num_classes: int
    num_prototypes: int


def detect_variant(state_dict: Mapping[str, Tensor]) -> Variant:
    """Recognise version, size, number of classes and of prototypes from names and shapes alone.

    Args:
        state_dict: Tensors under the published names.

    Raises:
        ValueError: It is not a YOLOv8-seg or YOLO11-seg model of one of the five sizes.
    """
    is_v11 = any(name.startswith('model.10.') for name in state_dict)
    version = 'v11' if is_v11 else 'v8'
    head = f'model.{HEAD_NUMBERS[version]}'
    needed = ('model.0.conv.weight', f'{head}.cv3.0.2.weight')
    missing = [name for name in needed if name not in state_dict]
    if missing:
        raise ValueError(
            f'not a YOLOv8-seg or YOLO11-seg model: no {", ".join(missing)} '
            f'among {len(state_dict)} tensors'
        )
    if f'{head}.cv4.0.2.weight' not in state_dict:
        raise ValueError(
            'a detection model without mask branches; '
            'give a segmentation model (yolov8n-seg.pt and the like)'
        )
    return Variant(
        version,
        _detect_size(state_dict, version),
        num_classes=state_dict[f'{head}.cv3.0.2.weight'].shape[0],
        num_prototypes=state_dict[f'{head}.cv4.0.2.weight'].shape[0],
    )


def expected_shapes(variant: Variant) -> dict[str, torch.Size]:
    """Names and shapes of the state dict of mmext's detector of a variant."""
    with torch.device('meta'):
        parts = {name: MODELS.build(config) for name, config in part_configs(variant).items()}
    return {
        f'{part}.{name}': tensor.shape
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def part_configs(variant: Variant) -> dict[str, dict[str, Any]]:
    """Configs of `backbone`, `neck` and `bbox_head`, as far as they shape the weights."""
    version = variant.version
    scale = SCALES[version][variant.size]
    widths = [scale_channels(width, *scale[1:]) for width in (256, 512, 1024)]
    # What the backbone hands on at stride 8 is wider in v11, where a stage ends wider than it
    # begins.
    finest = 512 if version == 'v11' else 256
    any_loss = dict(type='mmdet.L1Loss')  # losses have no weights
    return dict(
        backbone=dict(type='mmext.CSPBackbone', version=version, **scale._asdict()),
        neck=dict(
            type='mmext.CSPPAN',
            version=version,
            in_channels=[scale_channels(finest, *scale[1:]), *widths[1:]],
            out_channels=widths,
            deepen_factor=scale.deepen_factor,
        ),
        bbox_head=dict(
            type='mmext.Segment',
            version=version,
            num_classes=variant.num_classes,
            num_prototypes=variant.num_prototypes,
            in_channels=widths,
            proto=dict(type='mmext.Proto', hidden_channels=widths[0]),
            **{name: any_loss for name in ('loss_cls', 'loss_bbox', 'loss_dfl', 'loss_mask')},
        ),
    )


def _detect_size(state_dict: Mapping[str, Tensor], version: str) -> str:
    width = state_dict['model.0.conv.weight'].shape[0]
    depth = len(
        {match[1] for name in state_dict if (match := re.match(r'model\.2\.m\.(\d+)', name))}
    )
    known = {}
    for size, scale in SCALES[version].items():
        known[size] = (
            scale_channels(64, scale.widen_factor, scale.max_channels),
            scale_depth(_FIRST_DEPTH[version], scale.deepen_factor),
        )
        if known[size] == (width, depth):
            return size
    raise ValueError(
        f'no size of YOLO {version} has {width} channels in its first layer and {depth} blocks '
        f'in its first chain; known (channels, blocks): {known}'
    )
