"""Weights of SegFormer from NVlabs, transformers and mmseg under the names of mmext, and back.

mmext has the names of mmseg for the encoder (`backbone.`), and for the paper's decoder `decode_head.` with `convs.<i>` and
`fusion_conv`, levels from the finest to the coarsest. The columns of the last linear layer belong to the coarsest level
first everywhere, so that no tensor is changed. mmseg's decoder is another one, which no other project has; it stays as
it is, for `mmext.FastSegformerHead`. Sizes are read from the shapes. The weights have licences of their own; mmext ships
this converter and no weights.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor

from mmext.models.common.mit_names import (
    Naming,
    as_convolution,
    detect_naming,
    foreign_names,
    give_encoder,
    take_encoder,
)
from mmext.models.common.weight_files import check_complete, check_finite
from mmext.registry import MODELS

# Prefixes of whole models.
PREFIXES = {
    'nvlabs': 'backbone.',
    'mmseg': 'backbone.',
    'hf': 'segformer.encoder.',
    'hf-module': 'segformer.',
}
# Epsilons of the norms with which the weights were trained: of patches and reduced keys, of blocks, of stages.
NORM_EPS = {
    'nvlabs': (1e-5, 1e-6, 1e-6),
    'mmseg': (1e-6, 1e-6, 1e-6),
    'hf': (1e-5, 1e-5, 1e-5),
    'hf-module': (1e-5, 1e-5, 1e-5),
}
DEPTHS: dict[tuple[int, tuple[int, ...]], str] = {
    (32, (2, 2, 2, 2)): 'b0',
    (64, (2, 2, 2, 2)): 'b1',
    (64, (3, 4, 6, 3)): 'b2',
    (64, (3, 4, 18, 3)): 'b3',
    (64, (3, 8, 27, 3)): 'b4',
    (64, (3, 6, 40, 3)): 'b5',
}
_NUM_LEVELS, _HEAD, _ENCODER = 4, 'decode_head.', 'backbone.'
_COUNTER = '.num_batches_tracked'
_COLUMN = {'nvlabs': 0, 'hf': 1, 'hf-module': 2}
# Parts of the paper's decoder here and in the others.
_HEAD_PARTS = {
    **{
        f'convs.{i}.': (
            f'linear_c{i + 1}.proj.',
            f'linear_c.{i}.proj.',
            f'linear_projections.{i}.proj.',
        )
        for i in range(_NUM_LEVELS)
    },
    'fusion_conv.conv.': ('linear_fuse.conv.', 'linear_fuse.', 'linear_fuse.'),
    'fusion_conv.bn.': ('linear_fuse.bn.', 'batch_norm.', 'batch_norm.'),
    'conv_seg.': ('linear_pred.', 'classifier.', 'classifier.'),
}
# What files have besides, and nothing reads: NVlabs' second classifier, and heads that help in training only.
_NOT_NEEDED = re.compile(r'decode_head\.conv_seg\.|auxiliary_head\.')


class Detected(NamedTuple):
    """What a file holds, from its names and shapes.

    Attributes:
        naming: of the encoder.
        decoder: 'paper' or 'mmseg'.
        embed_dims: of the encoder.
        num_layers: of its stages.
        channels: of the decoder.
        num_classes: logits.
    """

    naming: Naming
    decoder: str
    embed_dims: int
    num_layers: tuple[int, ...]
    channels: int
    num_classes: int

    @property
    def size(self) -> str:
        """'b0' to 'b5', '' for one of one's own."""
        return DEPTHS.get((self.embed_dims, self.num_layers), '')

    @property
    def title(self) -> str:
        """Name of the model, for messages."""
        own = f'of {self.embed_dims} channels and {self.num_layers} blocks'
        return f'SegFormer {f"MiT-{self.size.upper()}" if self.size else own}'


class ConversionReport(NamedTuple):
    """What became of the entries of a state dict.

    Attributes:
        detected: what the file holds.
        refilled: names that the file lacks and whose values are known.
        ignored: names in the file that mmext does not need.
    """

    detected: Detected
    refilled: tuple[str, ...]
    ignored: tuple[str, ...]


def part_configs(detected: Detected) -> dict[str, dict[str, Any]]:
    """Configs `backbone` and `decode_head` of the model that the weights fit."""
    patch_eps, block_eps, stage_eps = NORM_EPS[detected.naming.source]
    backbone = dict(
        type='mmext.MixVisionTransformer',
        embed_dims=detected.embed_dims,
        num_layers=detected.num_layers,
        patch_eps=patch_eps,
        block_eps=block_eps,
        stage_eps=stage_eps,
    )
    head = dict(
        in_channels=[detected.embed_dims * heads for heads in (1, 2, 5, 8)],
        in_index=list(range(_NUM_LEVELS)),
        channels=detected.channels,
        num_classes=detected.num_classes,
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='mmseg.CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True),
    )
    if detected.decoder == 'mmseg':
        return dict(backbone=backbone, decode_head=dict(type='mmext.FastSegformerHead', **head))
    dropout = 'Dropout2d' if detected.naming.source == 'nvlabs' else 'Dropout'
    paper = dict(type='mmext.SegformerMLPHead', dropout_type=dropout, **head)
    return dict(backbone=backbone, decode_head=paper)


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename the weights of a SegFormer; the tensors are the same to the last bit.

    Args:
        state_dict: Tensors under the names of NVlabs, mmseg, files of transformers or its modules.

    Returns:
        A state dict for an `EncoderDecoder` of `part_configs`, and the report.

    Raises:
        ValueError: No SegFormer, an encoder without a decoder, names and shapes that are not exactly those of the
            recognised model, or weights that are not finite.
    """
    if f'{_HEAD}convs.0.weight' in state_dict:
        raise ValueError("the tensors have mmext's names already; load the file as it is")
    detected = detect(state_dict)
    source, expected = detected.naming.source, expected_shapes(detected)
    wanted = [n.removeprefix(_ENCODER) for n in expected if n.startswith(_ENCODER)]
    encoder, used = take_encoder(state_dict, detected.naming, wanted)
    found = {_ENCODER + name: tensor for name, tensor in encoder.items()}
    for own in (name for name in expected if name.startswith(_HEAD)):
        name = _foreign_head_name(own, source)
        if name in state_dict:
            used.add(name)
            tensor = state_dict[name]
            found[own] = as_convolution(tensor) if own.startswith(f'{_HEAD}convs.') else tensor
    rest = [name for name in state_dict if name not in used]
    ignored = [name for name in rest if _NOT_NEEDED.match(name)]
    refilled = [n for n in expected if n not in found and n.endswith(_COUNTER)]
    found.update({name: torch.tensor(0) for name in refilled})
    unknown = [name for name in rest if name not in ignored]
    _check(found, expected, unknown, detected)
    ordered = {name: found[name].clone() for name in expected}
    return ordered, ConversionReport(detected, tuple(refilled), tuple(ignored))


def revert_state_dict(
    state_dict: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], Detected]:
    """Name the weights of a SegFormer of mmext as another project does; the inverse of `convert_state_dict`.

    Args:
        state_dict: of an `EncoderDecoder` of `part_configs`.
        source: 'nvlabs', 'mmseg', 'hf' or 'hf-module'.

    Raises:
        ValueError: the other project has not this decoder, or names and shapes are not exactly those of the recognised
            model.
    """
    detected = detect(state_dict)
    _check(state_dict, expected_shapes(detected), [], detected)
    if (detected.decoder == 'mmseg') != (source == 'mmseg'):
        raise ValueError(
            f'got the decoder of {"mmseg" if detected.decoder == "mmseg" else "the paper"} for {source}: mmseg has a '
            'norm and a ReLU for each level, NVlabs and transformers have not, so that no weights of one fit the other. '
            f'Export to {"mmseg" if detected.decoder == "mmseg" else "nvlabs or hf"}, or train the other decoder.'
        )
    encoder = {
        name.removeprefix(_ENCODER): tensor
        for name, tensor in state_dict.items()
        if name.startswith(_ENCODER)
    }
    given = give_encoder(encoder, Naming(source, PREFIXES[source]))
    for own, tensor in state_dict.items():
        if own.startswith(_HEAD):
            linear = detected.decoder == 'paper' and own.startswith(f'{_HEAD}convs.')
            is_matrix = linear and own.endswith('weight')
            name = _foreign_head_name(own, source)
            given[name] = (tensor.flatten(1) if is_matrix else tensor).clone()
    return given, detected


def detect(state_dict: Mapping[str, Tensor]) -> Detected:
    """Source, sizes and number of classes from names and shapes.

    Raises:
        ValueError: not a whole SegFormer.
    """
    naming = detect_naming(state_dict)
    is_own = f'{_HEAD}convs.0.weight' in state_dict
    decoder = 'mmseg' if naming.source == 'mmseg' and not is_own else 'paper'
    head_source = 'mmseg' if is_own else naming.source
    shapes = []
    for part in ('fusion_conv.conv.weight', 'conv_seg.weight'):
        name = _foreign_head_name(_HEAD + part, head_source)
        if name not in state_dict:
            raise ValueError(
                f'no {name}: got an encoder without the decoder of a SegFormer, expected both. An encoder needs no '
                "conversion: give its file as checkpoint= of backbone=dict(type='mmext.MixVisionTransformer')."
            )
        shapes.append(state_dict[name].shape[0])
    (first,) = foreign_names('layers.0.0.projection.weight', naming.source)
    depths = tuple(_count_blocks(state_dict, naming, stage) for stage in range(_NUM_LEVELS))
    embed_dims = state_dict[naming.prefix + first].shape[0]
    return Detected(naming, decoder, embed_dims, depths, *shapes)


def expected_shapes(detected: Detected) -> dict[str, Size]:
    """Shape of each entry of the model's state dict."""
    parts = part_configs(detected)
    with torch.device('meta'):
        return {
            f'{part}.{name}': tensor.shape
            for part, cfg in parts.items()
            for name, tensor in MODELS.build(cfg).state_dict().items()
        }


def _count_blocks(names: Iterable[str], naming: Naming, stage: int) -> int:
    number = 0
    while True:
        (name,) = foreign_names(f'layers.{stage}.1.{number}.norm1.weight', naming.source)
        if naming.prefix + name not in names:
            return number
        number += 1


def _foreign_head_name(own: str, source: str) -> str:
    """What an entry of the decoder is called elsewhere; mmseg has its names for its own decoder."""
    if source == 'mmseg':
        return own
    part = own.removeprefix(_HEAD)
    for prefix, theirs in _HEAD_PARTS.items():
        if part.startswith(prefix):
            return _HEAD + theirs[_COLUMN[source]] + part.removeprefix(prefix)
    return own


def _check(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Size],
    unknown: list[str],
    detected: Detected,
) -> None:
    model = f'{detected.title} with {detected.num_classes} classes'
    check_complete(tensors, expected, unknown=unknown, model=model)
    check_finite(tensors, model=model)
