"""Text embeddings of classes in a file, so that training and deployment need neither the text model nor transformers.

A safetensors file of a few kB: one tensor `embeddings` (K, D), and in its header the names of the classes and where the
embeddings come from. `tools/embed_text.py` writes such files.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_KIND = 'mmext.text_embeddings'
_VERSION = '1'
_TENSOR = 'embeddings'
_SOURCES = ('model', 'model_hash', 'text_hash', 'language')
# Of rows that were normalised in float32.
_NORM_TOLERANCE = 1e-4
_REMEDY = 'Write the file again with tools/embed_text.py.'


class TextEmbeddings(NamedTuple):
    """Embeddings of classes, and what they were made of.

    Attributes:
        names: of the classes.
        vectors: (K, D) float32, one row a class, of length 1; the mean over the prompts of the class.
        model: name of the text model's folder.
        model_hash: of the files of the text model.
        text_hash: of the prompts of all classes.
        language: of the prompts, 'en' for example.
    """

    names: tuple[str, ...]
    vectors: Tensor
    model: str
    model_hash: str
    text_hash: str
    language: str


def load_text_embeddings(path: str | Path, class_names: Sequence[str]) -> Tensor:
    """The embeddings of these classes, in their order.

    Args:
        path: file of `save_text_embeddings`. Classes that it has besides are left out, which the log says.
        class_names: of the data set or the model, K of them.

    Returns:
        (K, D) float32, rows of length 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is damaged, or lacks a class; or a class is asked for twice.
    """
    return select_rows(read_text_embeddings(path), class_names, str(path))


def select_rows(embeddings: TextEmbeddings, class_names: Sequence[str], source: str) -> Tensor:
    """Like `load_text_embeddings`, for embeddings that were read already; `source` is for messages."""
    if isinstance(class_names, str) or not class_names:
        raise ValueError(f'got class_names={class_names!r}, expected a list of one name or more')
    repeated = sorted({name for name in class_names if list(class_names).count(name) > 1})
    if repeated:
        raise ValueError(
            f'got class_names with {", ".join(repeated)} twice, expected each name once'
        )
    missing = [name for name in class_names if name not in embeddings.names]
    if missing:
        raise ValueError(
            f'{source} has no text embedding of {", ".join(missing)}: it has {", ".join(embeddings.names)}. Add the class '
            'to the descriptions and write the file again with tools/embed_text.py, or correct the name.'
        )
    unused = [name for name in embeddings.names if name not in class_names]
    if unused:
        print_log(f'{source}: {", ".join(unused)} not used', 'current', level=logging.INFO)
    return embeddings.vectors[[embeddings.names.index(name) for name in class_names]]


def read_text_embeddings(path: str | Path) -> TextEmbeddings:
    """All that a file of text embeddings holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is of another kind, or its embeddings are not finite rows of length 1.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f'text embeddings {path} do not exist. Write them: '
            f'`python tools/embed_text.py DESCRIPTIONS.json MODEL_FOLDER {path}`.'
        )
    try:
        with safe_open(file, framework='pt') as opened:
            header = opened.metadata() or {}
            vectors = opened.get_tensor(_TENSOR) if _TENSOR in opened.keys() else None
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f'{path} cannot be read as text embeddings ({error}). {_REMEDY}'
        ) from error
    if header.get('kind') != _KIND or vectors is None:
        raise ValueError(f'{path} holds no text embeddings, but other tensors. {_REMEDY}')
    if header.get('version') != _VERSION:
        raise ValueError(
            f'{path} is of version {header.get("version")}, expected version {_VERSION}. {_REMEDY}'
        )
    names = tuple(json.loads(header['names']))
    embeddings = TextEmbeddings(names, vectors, *(header[key] for key in _SOURCES))
    _check(embeddings, str(path))
    return embeddings


def save_text_embeddings(path: str | Path, embeddings: TextEmbeddings) -> None:
    """Write a file for `load_text_embeddings`, in a new folder where need be.

    Raises:
        OSError: it cannot be written.
        ValueError: the rows are not float32, finite and of length 1, or not one for each of the names.
    """
    _check(embeddings, 'text embeddings')
    header = {key: getattr(embeddings, key) for key in _SOURCES}
    header.update(kind=_KIND, version=_VERSION, names=json.dumps(embeddings.names))
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Several processes of a training may write and read it at once: it appears whole or not at all.
    unfinished = file.with_name(f'{file.name}.{os.getpid()}')
    tensors = {_TENSOR: embeddings.vectors.detach().cpu().contiguous()}
    # Not `save_file`, whose files nobody else may read.
    unfinished.write_bytes(save(tensors, metadata=header))
    unfinished.replace(file)


def _check(embeddings: TextEmbeddings, source: str) -> None:
    names, vectors = embeddings.names, embeddings.vectors
    if vectors.dtype != torch.float32 or vectors.dim() != 2 or 0 in vectors.shape:
        raise ValueError(
            f'{source}: got embeddings {vectors.dtype} {tuple(vectors.shape)}, expected torch.float32 (classes, channels)'
        )
    if len(names) != len(vectors) or len(set(names)) != len(names):
        raise ValueError(
            f'{source}: got {len(vectors)} embeddings for the classes {", ".join(names)}, expected one for each, and no '
            f'class twice. {_REMEDY}'
        )
    norms = vectors.norm(dim=1)
    # NaN is within no tolerance.
    wrong = [
        n for n, v in zip(names, norms, strict=True) if not abs(v.item() - 1) < _NORM_TOLERANCE
    ]
    if wrong:
        raise ValueError(
            f'{source}: embeddings of {", ".join(wrong)} are not finite or not of length 1. {_REMEDY}'
        )
