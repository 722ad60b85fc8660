"""Weights of published YOLOv8-seg and YOLO11-seg models under the names of mmext's detectors.

The blocks of `mmext` bear the published names of their children, so conversion replaces prefixes
only. Version, size, number of classes and number of prototypes are read from the shapes. The
weights themselves have their own licence (AGPL-3.0 for those of Ultralytics); mmext ships this
converter and no weights.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mmext.models.common.foreign_pickle import InertObject, load_inert, module_state
from mmext.models.common.weight_files import check_complete
from mmext.models.yolo.variants import HEAD_NUMBERS, Variant, detect_variant, expected_shapes

_BACKBONE_PREFIXES = {
    'model.0.': 'backbone.stem.',
    'model.1.': 'backbone.stage1.0.',
    'model.2.': 'backbone.stage1.1.',
    'model.3.': 'backbone.stage2.0.',
    'model.4.': 'backbone.stage2.1.',
    'model.5.': 'backbone.stage3.0.',
    'model.6.': 'backbone.stage3.1.',
    'model.7.': 'backbone.stage4.0.',
    'model.8.': 'backbone.stage4.1.',
    'model.9.': 'backbone.stage4.2.',
}
_HEAD_PREFIXES = {
    'cv2.': 'bbox_head.reg_branches.',
    'cv3.': 'bbox_head.cls_branches.',
    'cv4.': 'bbox_head.coeff_branches.',
    'proto.': 'bbox_head.proto.',
}
PREFIXES: dict[str, dict[str, str]] = {
    'v8': {
        **_BACKBONE_PREFIXES,
        'model.12.': 'neck.top_down_blocks.0.',
        'model.15.': 'neck.top_down_blocks.1.',
        'model.16.': 'neck.downsamples.0.',
        'model.18.': 'neck.bottom_up_blocks.0.',
        'model.19.': 'neck.downsamples.1.',
        'model.21.': 'neck.bottom_up_blocks.1.',
        **{f'model.22.{source}': target for source, target in _HEAD_PREFIXES.items()},
    },
    'v11': {
        **_BACKBONE_PREFIXES,
        'model.10.': 'backbone.stage4.3.',
        'model.13.': 'neck.top_down_blocks.0.',
        'model.16.': 'neck.top_down_blocks.1.',
        'model.17.': 'neck.downsamples.0.',
        'model.19.': 'neck.bottom_up_blocks.0.',
        'model.20.': 'neck.downsamples.1.',
        'model.22.': 'neck.bottom_up_blocks.1.',
        **{f'model.23.{source}': target for source, target in _HEAD_PREFIXES.items()},
    },
}


class ConversionReport(NamedTuple):
    """What became of the entries of a state dict.

    Attributes:
        variant: The recognised model.
        mapped: Target name of each source name that was taken over.
        ignored: Source names that the target does not need.
    """

    variant: Variant
    mapped: dict[str, str]
    ignored: tuple[str, ...]


class PublishedWeights(NamedTuple):
    """What a published checkpoint holds, under its own names.

    Attributes:
        state_dict: Tensors in the precision of the file.
        class_names: Names of the classes in the order of the scores; empty where the file does not
            say.
    """

    state_dict: dict[str, Tensor]
    class_names: tuple[str, ...]


def read_published(path: str | Path) -> PublishedWeights:
    """Read a checkpoint of Ultralytics without importing or executing any of its code.

    Checkpoints of a training in progress hold the moving average of the weights as `ema`, which is
    preferred; in published files `ema` is None and `model` is that average. A plain state dict is
    read as well.

    Args:
        path: A .pt file.

    Returns:
        The tensors and the class names.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or holds no model.
    """
    content = load_inert(path)
    model = content
    if isinstance(content, dict) and ('model' in content or 'ema' in content):
        model = content['ema'] if content.get('ema') is not None else content.get('model')
    if isinstance(model, dict):
        tensors = {name: value for name, value in model.items() if isinstance(value, Tensor)}
    elif isinstance(model, InertObject):
        tensors = module_state(model)
    else:
        tensors = {}
    if not tensors:
        raise ValueError(f'{path} holds no model: neither a pickled module nor a state dict')
    return PublishedWeights(tensors, _class_names(getattr(model, 'names', None)))


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename a published state dict; floating tensors become float32 copies.

    Args:
        state_dict: Tensors under the published names, `model.0.conv.weight` and so on.

    Returns:
        A state dict for `mmdet.SingleStageDetector` with `CSPBackbone`, `CSPPAN` and `Segment`, and
        the report.

    Raises:
        ValueError: Unknown model, or names and shapes that are not exactly those of the recognised
            one.
    """
    variant = detect_variant(state_dict)
    mapped = _rename(state_dict, PREFIXES[variant.version])
    ignored = tuple(name for name in state_dict if name == _dfl_name(variant.version))
    converted = {
        target: state_dict[source].to(_target_dtype(state_dict[source]), copy=True)
        for source, target in mapped.items()
    }
    unknown = [name for name in state_dict if name not in mapped and name not in ignored]
    check_complete(converted, expected_shapes(variant), unknown=unknown, model=_title(variant))
    return converted, ConversionReport(variant, mapped, ignored)


def revert_state_dict(state_dict: Mapping[str, Tensor], version: str) -> dict[str, Tensor]:
    """Name the weights of an mmext detector as the published models do.

    The inverse of `convert_state_dict`, but that weights stay float32.

    Args:
        state_dict: State dict of a detector with `CSPBackbone`, `CSPPAN` and `Segment`.
        version: 'v8' or 'v11'.

    Returns:
        The same tensors, and the frozen ones of the published head.

    Raises:
        ValueError: A name that the published model has no place for.
    """
    renamed = _rename(state_dict, {target: source for source, target in PREFIXES[version].items()})
    unknown = [name for name in state_dict if name not in renamed]
    if unknown:
        raise ValueError(f'YOLO {version}-seg has no place for {", ".join(unknown)}')
    reverted = {renamed[name]: tensor for name, tensor in state_dict.items()}
    reverted[_dfl_name(version)] = torch.arange(16.0).reshape(1, 16, 1, 1)
    return reverted


def _rename(names: Iterable[str], prefixes: Mapping[str, str]) -> dict[str, str]:
    """New name of each name that begins with one of the prefixes."""
    return {
        name: new + name.removeprefix(old)
        for name in names
        for old, new in prefixes.items()
        if name.startswith(old)
    }


def _dfl_name(version: str) -> str:
    """Name of the frozen weights 0 .. 15 of the distance integral, which mmext's head computes."""
    return f'model.{HEAD_NUMBERS[version]}.dfl.conv.weight'


def _title(variant: Variant) -> str:
    return f'YOLO {variant.version}{variant.size}-seg with {variant.num_classes} classes'


def _target_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def _class_names(names: object) -> tuple[str, ...]:
    """Names from what a module holds as `names`: a list, or a dict by index."""
    if isinstance(names, dict) and all(isinstance(key, int) for key in names):
        names = [names[key] for key in sorted(names)]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)
