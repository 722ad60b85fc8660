"""Embeddings of classes from their descriptions: computed once and kept in a file, or by a text model that learns too.

K classes, P prompts, D channels.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from mmext.models.common.text_embeddings import (
    TextEmbeddings,
    read_text_embeddings,
    save_text_embeddings,
    select_rows,
)
from mmext.models.common.text_model import TextModel, check_model_folder, hash_model
from mmext.registry import MODELS
from mmext.structures.descriptions import check_classes, read_descriptions
from mmext.structures.prompts import TEMPLATES, Prompt, class_prompts, hash_prompts

_BATCH = 64


@MODELS.register_module()
class TextEncoder(BaseModule):
    """Embeddings of classes, (K, D) rows of length 1, from a file of descriptions.

        dict(type='mmext.TextEncoder', descriptions='configs/deim/descriptions/magnetic_tile.json',
             class_names=('Blowhole', 'Break', 'Crack', 'Fray', 'Uneven'), model='models/minilm', cache='magnetic_tile.safetensors')

    Frozen, which is the default, it is a buffer that is saved with the model. With `cache`, neither the text model nor
    transformers are needed once that file is there. Nothing is downloaded.

    Args:
        descriptions: JSON file, see `mmext.structures.descriptions`.
        class_names: of the data set, in its order.
        model: folder of a text model, see `TextModel`. It may be absent where `cache` has the embeddings; None stands
            for whatever model `cache` was made with.
        language: of the descriptions.
        templates: of the prompts, see `class_prompts`.
        cache: file of text embeddings. It is used if it was made of these prompts by this model, and else written anew.
        trainable: regular expressions for names of the text model's parameters, which then learn with the rest:
            (r'encoder\\.layer\\.5\\.',) for the last layer of MiniLM. Without dropout, so that what is trained is what is
            tested.
        init_cfg: mmengine init config.

    Attributes:
        class_names: as given.
        embed_dims: D.

    Raises:
        FileNotFoundError: a file or the model's folder is missing.
        ValueError: descriptions that do not fit the classes, no model and no cache, a cache of other prompts or another
            model where the model is absent, expressions that match nothing, or both `cache` and `trainable`.
    """

    embeddings: Tensor
    shares: Tensor

    def __init__(
        self,
        descriptions: str,
        class_names: Sequence[str],
        *,
        model: str | None = None,
        language: str = 'en',
        templates: Sequence[str] = TEMPLATES,
        cache: str | None = None,
        trainable: Sequence[str] = (),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        entries = read_descriptions(descriptions)
        check_classes(entries, class_names, descriptions)
        prompts = class_prompts(entries, language, templates)
        self.class_names = tuple(class_names)
        self.text_model: TextModel | None = None
        if trainable:
            self._init_learning(prompts, model, cache, trainable)
            self._source = (f'{model}, fine-tuned', '', hash_prompts(prompts), language)
        else:
            found = _cached_or_computed(prompts, model, cache, language)
            self.register_buffer(
                'embeddings', select_rows(found, class_names, cache or descriptions)
            )
            self._source = (found.model, found.model_hash, found.text_hash, language)
            self.embed_dims = self.embeddings.shape[1]

    def forward(self) -> Tensor:
        """The embeddings (K, D), in the order of `class_names`; with gradients where the text model learns."""
        if self.text_model is None:
            return self.embeddings
        tokens = {name: getattr(self, f'tokens_{name}') for name in self.token_names}
        return average_prompts(self.text_model(tokens), self.shares)

    @torch.no_grad()
    def snapshot(self) -> TextEmbeddings:
        """The embeddings as they are now, for `save_text_embeddings`: then a text model that has learned is needed no more."""
        return TextEmbeddings(self.class_names, self().float().cpu(), *self._source)

    def train(self, mode: bool = True) -> 'TextEncoder':
        """Like that of modules, but the text model stays without dropout."""
        super().train(mode)
        if self.text_model is not None:
            self.text_model.eval()
        return self

    def _init_learning(
        self,
        prompts: Sequence[Prompt],
        model: str | None,
        cache: str | None,
        trainable: Sequence[str],
    ) -> None:
        if model is None or cache is not None:
            raise ValueError(
                f'got trainable={tuple(trainable)} with model={model!r} and cache={cache!r}: a text model that learns needs '
                'its folder, and has no embeddings to keep; give model and no cache, or leave trainable out'
            )
        self.text_model = TextModel(model)
        mark_trainable(self.text_model, trainable)
        chosen = [prompt for prompt in prompts if prompt.name in self.class_names]
        tokens = self.text_model.tokenize([prompt.text for prompt in chosen])
        self.token_names = tuple(tokens)
        # Not saved: they come from the descriptions.
        for name, values in tokens.items():
            self.register_buffer(f'tokens_{name}', values, persistent=False)
        shares = prompt_shares(chosen, self.class_names)
        self.register_buffer('shares', shares, persistent=False)
        embeddings = self()
        self.embed_dims = embeddings.shape[1]
        _check_learning(embeddings, self.text_model)


def embed_prompts(
    prompts: Sequence[Prompt], folder: str | Path, *, language: str, name: str | None = None
) -> TextEmbeddings:
    """The embeddings of classes by a text model.

    Args:
        prompts: of all classes.
        folder: of the text model.
        language: of the prompts, for the record.
        name: of the text model, for the record; None takes the last two parts of the folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no text model, or its vectors are not finite.
    """
    model = TextModel(folder)
    names = tuple(dict.fromkeys(prompt.name for prompt in prompts))
    parts = [prompts[i : i + _BATCH] for i in range(0, len(prompts), _BATCH)]
    with torch.no_grad():
        vectors = torch.cat([model(model.tokenize([p.text for p in part])) for part in parts])
    if not vectors.isfinite().all():
        raise ValueError(f'text model {folder}: its vectors are not finite; give another model')
    means = average_prompts(vectors, prompt_shares(prompts, names))
    name = name or '/'.join(Path(folder).resolve().parts[-2:])
    return TextEmbeddings(names, means, name, hash_model(folder), hash_prompts(prompts), language)


def average_prompts(vectors: Tensor, shares: Tensor) -> Tensor:
    """Vectors of prompts (P, D) and their `shares` (K, P) in the classes to embeddings (K, D) of length 1."""
    return F.normalize(shares @ vectors, dim=-1)


def prompt_shares(prompts: Sequence[Prompt], names: Sequence[str]) -> Tensor:
    """(K, P): the weight of each prompt in the row of its class, 0 in the others."""
    rows = [[prompt.weight * (prompt.name == name) for prompt in prompts] for name in names]
    return torch.tensor(rows, dtype=torch.float32)


def mark_trainable(model: TextModel, patterns: Sequence[str]) -> None:
    """Freeze the text model, but for the parameters whose names begin as one of the expressions says.

    Raises:
        ValueError: an expression is wrong or matches no name.
    """
    if isinstance(patterns, str):
        raise ValueError(f'got trainable={patterns!r}, expected a list of regular expressions')
    model.requires_grad_(False)
    for pattern in patterns:
        try:
            chosen = [p for n, p in model.network.named_parameters() if re.match(pattern, n)]
        except re.error as error:
            raise ValueError(f'trainable {pattern!r} is no regular expression: {error}') from error
        if not chosen:
            names = ', '.join(name for name, _ in model.network.named_parameters())
            raise ValueError(
                f'trainable {pattern!r} matches no parameter of the text model: {names}'
            )
        for parameter in chosen:
            parameter.requires_grad_(True)


def _check_learning(embeddings: Tensor, model: TextModel) -> None:
    """Raise ValueError if a parameter that should learn has no part in the embeddings."""
    chosen = {n: p for n, p in model.network.named_parameters() if p.requires_grad}
    idle = list(chosen)
    if embeddings.requires_grad:
        # Of one channel: rows have length 1, so that their sums of squares never change.
        gradients = torch.autograd.grad(
            embeddings[:, 0].sum(), list(chosen.values()), allow_unused=True
        )
        idle = [name for name, value in zip(chosen, gradients, strict=True) if value is None]
    if idle:
        raise ValueError(
            f'trainable names {", ".join(idle)}, which the embeddings do not depend on; leave it out'
        )


def _cached_or_computed(
    prompts: Sequence[Prompt], model: str | None, cache: str | None, language: str
) -> TextEmbeddings:
    if cache is not None and Path(cache).is_file():
        found = read_text_embeddings(cache)
        outdated = _why_outdated(found, prompts, model)
        if outdated is None:
            return found
        if model is None or not Path(model).is_dir():
            raise ValueError(
                f'text embeddings {cache} are outdated: {outdated}, and the text model is not here to make new ones '
                f'(model={model!r}). Give its folder as model, or take the descriptions and settings of the file.'
            )
        print_log(f'{cache}: {outdated}, written anew', 'current', level=logging.WARNING)
    if model is None:
        raise ValueError(
            f'got no model, and no text embeddings in cache={cache!r}: give the folder of a text model, or a file that '
            'tools/embed_text.py wrote'
        )
    check_model_folder(model)
    computed = embed_prompts(prompts, model, language=language)
    if cache is not None:
        save_text_embeddings(cache, computed)
    return computed


def _why_outdated(
    found: TextEmbeddings, prompts: Sequence[Prompt], model: str | None
) -> str | None:
    """None if the file fits the prompts and the model, as far as the latter is here to be compared."""
    if found.text_hash != hash_prompts(prompts):
        return 'made of other descriptions, another language or other templates'
    if model is None:
        return None
    if not Path(model).is_dir():
        same = Path(model).name == Path(found.model).name
    else:
        same = found.model_hash == hash_model(model)
    return None if same else f'made with another text model, {found.model}'
