"""Published weights of DEIMv2 under the names of `mmext.DEIM`, and back.

The parts have the published attribute names, so conversion changes one prefix (`encoder.` to `neck.`). What published
files lack is filled in: of entries that are one and the same tensor, files in safetensors keep one. Size and number
of classes are read from the shapes. The weights have licences of their own; mmext ships this converter and no weights.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Size, Tensor

from mmext.models.common.weight_files import check_complete, check_finite
from mmext.models.deim.parts import (
    OFFICIAL,
    TRANSFORMERS,
    Detected,
    detect_variant,
    expected_shapes,
    part_configs,
)
from mmext.models.deim.query_selection import make_anchors
from mmext.models.deim.transformers_names import from_transformers
from mmext.registry import MODELS

# Tables for one size of image, which mmext computes when it sees the image.
ANCHORS, VALID_MASK = 'decoder.anchors', 'decoder.valid_mask'
_COUNTER = '.num_batches_tracked'
_SHARED_HEAD = re.compile(r'(decoder\.dec_bbox_head)\.\d+\.')
_SHARED_NUMBERS = re.compile(r'decoder\.(?:decoder\.)?(up|reg_scale)')
_VIT = re.compile(r'^backbone\.dinov3\.(?:_model\.)?')
_DEPLOYED = 'conv_bn_fused'


class ConversionReport(NamedTuple):
    """What became of the entries of a state dict.

    Attributes:
        detected: Size and number of classes.
        naming: 'published' or 'transformers'.
        refilled: Names that the file lacks and whose values it has under another name or that are constants.
        ignored: Names in the file that mmext does not need.
    """

    detected: Detected
    naming: str
    refilled: tuple[str, ...]
    ignored: tuple[str, ...]


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename a published state dict; floating tensors and `reg_scale` become float32 copies.

    Args:
        state_dict: Tensors under the published names, or those of `transformers.Deimv2ForObjectDetection`.

    Returns:
        A state dict for `mmext.DEIM`, and the report.

    Raises:
        ValueError: Unknown model, names and shapes that are not exactly those of the recognised one, or weights that
            are not finite.
    """
    if any(name.startswith('neck.') for name in state_dict):
        raise ValueError("the tensors have mmext's names already; load the file as it is")
    _check_training_form(state_dict)
    is_port = any(name.startswith('model.') for name in state_dict)
    detected = detect_variant(state_dict, TRANSFORMERS if is_port else OFFICIAL)
    expected = expected_shapes(detected)
    if is_port:
        names = {_published_name(name) for name in expected}
        hybrid = detected.variant.encoder == 'hybrid'
        found, ignored, unknown = from_transformers(state_dict, names, hybrid=hybrid)
    else:
        ignored = [name for name in state_dict if name in (ANCHORS, VALID_MASK)]
        found = {_own_vit(n, detected): t for n, t in state_dict.items() if n not in ignored}
        unknown = []
    given = {_own_name(name): tensor.to(_dtype(name, tensor)) for name, tensor in found.items()}
    converted = {**given, **_refill(given, expected, detected, is_port=is_port)}
    _check(converted, expected, unknown, detected)
    # In the order of the model, and copies even where the dtype is right.
    ordered = {name: converted[name].clone() for name in expected}
    refilled = tuple(name for name in expected if name not in given)
    naming = 'transformers' if is_port else 'published'
    return ordered, ConversionReport(detected, naming, refilled, tuple(ignored))


def revert_state_dict(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Detected]:
    """Name the weights of an mmext detector as the published models do.

    The inverse of `convert_state_dict`: the result has every entry of the published model, aliases and tables of the
    published input size included, and float32 for `reg_scale`.

    Args:
        state_dict: State dict of an `mmext.DEIM` of one of the twelve sizes.

    Raises:
        ValueError: Unknown model, or names and shapes that are not exactly those of the recognised one.
    """
    _check_training_form(state_dict)
    published = {_published_name(name): tensor for name, tensor in state_dict.items()}
    detected = detect_variant(published, OFFICIAL)
    _check(state_dict, expected_shapes(detected), [], detected)
    if detected.name == 'hgx':  # its frozen norms do not count batches
        published = {
            name: tensor
            for name, tensor in published.items()
            if not (name.startswith('backbone.') and name.endswith(_COUNTER))
        }
    side = detected.variant.input_size
    sizes = tuple((side // stride, side // stride) for stride in detected.variant.strides)
    anchors = make_anchors(sizes, torch.device('cpu'))
    return {**published, ANCHORS: anchors.logits, VALID_MASK: anchors.valid}, detected


def _refill(
    given: Mapping[str, Tensor],
    expected: Mapping[str, Size],
    detected: Detected,
    *,
    is_port: bool,
) -> dict[str, Tensor]:
    """Values of absent entries: other names of the same tensor, counters, constants."""
    aliases: dict[str, Tensor] = {}
    for name, tensor in given.items():
        aliases.setdefault(_alias(name, detected), tensor)
    filled = {}
    # transformers computes what the published files store.
    constants = _initial_backbone(detected) if is_port else {}
    for name in (name for name in expected if name not in given):
        if _alias(name, detected) in aliases:
            filled[name] = aliases[_alias(name, detected)]
        elif name.endswith(_COUNTER):
            filled[name] = torch.tensor(0)
        elif name.endswith(('.rope_embed.periods', '.qkv.bias_mask')) and name in constants:
            filled[name] = constants[name]
    return filled


def _alias(name: str, detected: Detected) -> str:
    """The same text for all names of the same tensor."""
    name = _SHARED_NUMBERS.sub(r'decoder.\1', name)
    return _SHARED_HEAD.sub(r'\1.', name) if detected.variant.shares_bbox_head else name


def _initial_backbone(detected: Detected) -> dict[str, Tensor]:
    backbone = MODELS.build(part_configs(detected.variant, detected.num_classes)['backbone'])
    return {f'backbone.{name}': tensor for name, tensor in backbone.state_dict().items()}


def _check_training_form(names: Iterable[str]) -> None:
    if any(_DEPLOYED in name for name in names):
        raise ValueError(
            'the model is in its deploy form, in which norms are folded into convolutions; give the checkpoint of the '
            'training'
        )


def _check(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Size],
    unknown: list[str],
    detected: Detected,
) -> None:
    model = f'{detected.title} with {detected.num_classes} classes'
    check_complete(tensors, expected, unknown=unknown, model=model)
    check_finite(tensors, model=model)


def _own_name(published: str) -> str:
    return re.sub(r'^encoder\.', 'neck.', published)


def _published_name(own: str) -> str:
    return re.sub(r'^neck\.', 'encoder.', own)


def _own_vit(name: str, detected: Detected) -> str:
    """The tiny transformers sit one module deeper, `_model.`, than the others."""
    deeper = '_model.' if detected.variant.arch.startswith('vit_tiny') else ''
    return _VIT.sub(f'backbone.dinov3.{deeper}', name)


def _dtype(name: str, tensor: Tensor) -> torch.dtype:
    """float32 for numbers that are computed with, also where a config wrote 4 instead of 4.0."""
    is_number = tensor.is_floating_point() or _SHARED_NUMBERS.fullmatch(name)
    return torch.float32 if is_number else tensor.dtype
