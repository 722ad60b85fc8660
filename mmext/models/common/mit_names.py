"""Names of the Mix Transformer's weights in NVlabs' files, in transformers' files and modules, and in mmseg's, which are ours.

Sources of the names: published files of SegFormer (https://arxiv.org/abs/2105.15203), mmseg and transformers. The tensors
are the same; what others store as several of them or as a matrix stands in one tensor or in a 1x1 convolution here.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Naming(NamedTuple):
    """How the weights of an encoder are named in a file.

    Attributes:
        source: 'mmseg', 'nvlabs', 'hf' for files of transformers, or 'hf-module' for its modules since version 5.
        prefix: before each name: 'backbone.', 'segformer.encoder.', '' and the like.
    """

    source: str
    prefix: str


# The first weight of the encoder, by which its source is told, and what stands before it.
_FIRST_WEIGHT = {
    'mmseg': re.compile(r'(.*?)layers\.0\.0\.projection\.weight'),
    'nvlabs': re.compile(r'(.*?)patch_embed1\.proj\.weight'),
    'hf': re.compile(r'(.*?)patch_embeddings\.0\.proj\.weight'),
    'hf-module': re.compile(r'(.*?)stages\.0\.patch_embeddings\.proj\.weight'),
}
_COLUMN = {'nvlabs': 0, 'hf': 1, 'hf-module': 2}
# Names in mmseg, behind the stage, and those in the three others. Several names: rows that follow each other.
_STAGE_PARTS: dict[str, tuple[str, str, str]] = {
    '0.projection': (
        'patch_embed{number}.proj',
        'patch_embeddings.{stage}.proj',
        'stages.{stage}.patch_embeddings.proj',
    ),
    '0.norm': (
        'patch_embed{number}.norm',
        'patch_embeddings.{stage}.layer_norm',
        'stages.{stage}.patch_embeddings.layer_norm',
    ),
    '2': ('norm{number}', 'layer_norm.{stage}', 'stages.{stage}.layer_norm'),
}
_BLOCK = ('block{number}.{block}.', 'block.{stage}.{block}.', 'stages.{stage}.blocks.{block}.')
_BLOCK_PARTS: dict[str, tuple[str, str, str]] = {
    'norm1': ('norm1', 'layer_norm_1', 'layernorm_before'),
    'norm2': ('norm2', 'layer_norm_2', 'layernorm_after'),
    'attn.attn.in_proj': (
        'attn.q attn.kv',
        'attention.self.query attention.self.key attention.self.value',
        'attention.q_proj attention.k_proj attention.v_proj',
    ),
    'attn.attn.out_proj': ('attn.proj', 'attention.output.dense', 'attention.o_proj'),
    'attn.sr': ('attn.sr', 'attention.self.sr', 'attention.sequence_reduction.sequence_reduction'),
    'attn.norm': (
        'attn.norm',
        'attention.self.layer_norm',
        'attention.sequence_reduction.layer_norm',
    ),
    'ffn.layers.0': ('mlp.fc1', 'mlp.dense1', 'mlp.fc1'),
    'ffn.layers.1': ('mlp.dwconv.dwconv', 'mlp.dwconv.dwconv', 'mlp.dwconv.dwconv'),
    'ffn.layers.4': ('mlp.fc2', 'mlp.dense2', 'mlp.fc2'),
}
_OWN = re.compile(
    r'layers\.(?P<stage>\d+)\.(?:1\.(?P<block>\d+)\.)?(?P<part>.+?)[._](?P<kind>weight|bias)'
)
# Rows of one name; of queries, and keys with values; of queries, keys and values.
_SHARES = {1: (1,), 2: (1, 2), 3: (1, 1, 1)}
_POINTWISE = re.compile(r'layers\.\d+\.1\.\d+\.ffn\.layers\.[04]\.weight')


def detect_naming(names: Iterable[str]) -> Naming:
    """Tell from the names whose encoder it is.

    Raises:
        ValueError: it is none of the four.
    """
    names = list(names)
    for source, pattern in _FIRST_WEIGHT.items():
        for name in names:
            match = pattern.fullmatch(name)
            if match is not None:
                return Naming(source, match[1])
    shown = ', '.join(names[:3]) or 'nothing'
    raise ValueError(
        f'no encoder of SegFormer: got {shown}{", ..." * (len(names) > 3)}, expected names of NVlabs '
        '(patch_embed1.proj.weight), of transformers (patch_embeddings.0.proj.weight or '
        'stages.0.patch_embeddings.proj.weight) or of mmseg (layers.0.0.projection.weight). Give the checkpoint of a '
        'SegFormer or of its encoder.'
    )


def foreign_names(own: str, source: str) -> tuple[str, ...]:
    """What an entry of the encoder is called elsewhere.

    Args:
        own: name in `mmext.MixVisionTransformer` and in mmseg.
        source: see `Naming`.

    Returns:
        One name, or those whose rows are stacked in the entry.
    """
    if source == 'mmseg':
        return (own,)
    match = _OWN.fullmatch(own)
    assert match is not None, own
    column, place = _COLUMN[source], dict(match.groupdict(), number=int(match['stage']) + 1)
    if match['block'] is None:
        stem, parts = '', _STAGE_PARTS
    else:
        stem, parts = _BLOCK[column], _BLOCK_PARTS
    names = parts[match['part']][column].split()
    return tuple(f'{stem}{name}.{match["kind"]}'.format_map(place) for name in names)


def take_encoder(
    tensors: Mapping[str, Tensor], naming: Naming, own_names: Iterable[str]
) -> tuple[dict[str, Tensor], set[str]]:
    """The weights of an encoder under our names.

    Args:
        tensors: of a file.
        naming: of the file.
        own_names: entries of `mmext.MixVisionTransformer` that are wanted.

    Returns:
        Those that the file has completely, new where they were several or a matrix; and the names in the file that
        they were made of.

    Raises:
        ValueError: queries, keys and values do not fit each other.
    """
    found, used = {}, set()
    for own in own_names:
        names = [naming.prefix + name for name in foreign_names(own, naming.source)]
        if all(name in tensors for name in names):
            used.update(names)
            tensor = _stack({name: tensors[name] for name in names})
            found[own] = as_convolution(tensor) if _POINTWISE.fullmatch(own) else tensor
    return found, used


def give_encoder(tensors: Mapping[str, Tensor], naming: Naming) -> dict[str, Tensor]:
    """The reverse of `take_encoder`: entries of `mmext.MixVisionTransformer` under the names of another project."""
    given = {}
    for own, tensor in tensors.items():
        if naming.source != 'mmseg' and _POINTWISE.fullmatch(own):
            tensor = tensor.flatten(1)
        names = foreign_names(own, naming.source)
        rows = [len(tensor) * share // sum(_SHARES[len(names)]) for share in _SHARES[len(names)]]
        for name, part in zip(names, tensor.split(rows), strict=True):
            given[naming.prefix + name] = part.clone()
    return given


def as_convolution(matrix: Tensor) -> Tensor:
    """The kernel (O, I, 1, 1) of a linear layer (O, I); one that is a kernel already stays as it is."""
    return matrix[:, :, None, None] if matrix.dim() == 2 else matrix


def _stack(parts: Mapping[str, Tensor]) -> Tensor:
    """The rows of several tensors one after the other; one alone as it is."""
    tensors = list(parts.values())
    if len(tensors) == 1:
        return tensors[0]
    first = tensors[0].shape
    fitting = [torch.Size((first[0] * share, *first[1:])) for share in _SHARES[len(tensors)]]
    if [tensor.shape for tensor in tensors] != fitting:
        shown = ', '.join(f'{name} {list(tensor.shape)}' for name, tensor in parts.items())
        expected = ', '.join(str(list(shape)) for shape in fitting)
        raise ValueError(
            f'got {shown}, expected {expected}: queries, keys and values of one width. Give another checkpoint.'
        )
    return torch.cat(tensors)
