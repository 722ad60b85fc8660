"""The texts that a `DEIMMultimodal` holds: where they come from, how alike they are, and what it becomes under others."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmext.models.common.text_embeddings import TextEmbeddings, read_text_embeddings
from mmext.models.deim.multimodal import DEIMMultimodal
from mmext.structures.descriptions import read_descriptions
from mmext.structures.prompts import TEMPLATES, Prompt, class_prompts, hash_prompts

# Of rows that passed through a checkpoint: none, but for averaged weights.
_TOLERANCE = 1e-5
_SOURCE_KEYS = ('model', 'model_hash', 'text_hash', 'language')


class TextChange(NamedTuple):
    """Other texts for some classes.

    Attributes:
        kind: 'drop', the text of the class gives way to the mean of the others', or 'swap', of two classes.
        classes: their names, one or two.
    """

    kind: str
    classes: tuple[str, ...]

    def __str__(self) -> str:
        return f'{self.kind} {" and ".join(self.classes)}'


class TextRecord(NamedTuple):
    """What is known about the texts of a model.

    Attributes:
        source: `file` of embeddings, `model`, `model_hash`, `text_hash`, `language`; texts, or None where they are not known.
        owners: by class of the model, whose text of the file it has; None where it is not in the file.
        sentences: by class of the model, the prompts behind its text; no entry where they are not known.
        notes: what could not be found or does not fit, sentences for the reader.
    """

    source: dict[str, str | None]
    owners: dict[str, str | None]
    sentences: dict[str, list[str]]
    notes: list[str]


def text_similarity(embeddings: Tensor) -> Tensor:
    """Cosines (K, K) between embeddings (K, T)."""
    rows = functional.normalize(embeddings.detach().float().cpu(), dim=-1)
    return rows @ rows.T


def changed_texts(embeddings: Tensor, classes: Sequence[str], change: TextChange) -> Tensor:
    """Embeddings (K, T) of the model's classes after a change.

    A dropped text gives way to the mean of all others, at its own length: a text that says what the classes have in common, and
    nothing of the one it stands for. Nothing else of the network changes, neither its logits nor its weights.

    Raises:
        ValueError: a name is not among the classes, a class is swapped with itself, or a single class is dropped.
    """
    index = class_indices(change, classes)
    rows = embeddings.clone()
    if change.kind == 'swap':
        rows[index] = embeddings[index[::-1]]
        return rows
    others = [i for i in range(len(classes)) if i != index[0]]
    neutral = functional.normalize(embeddings[others], dim=-1).mean(dim=0)
    rows[index[0]] = functional.normalize(neutral, dim=0) * embeddings[index[0]].norm()
    return rows


def class_indices(change: TextChange, classes: Sequence[str]) -> list[int]:
    """The labels of the classes of a change; raises as `changed_texts` says."""
    unknown = [name for name in change.classes if name not in classes]
    if unknown:
        raise ValueError(
            f'--{change.kind}: got {", ".join(unknown)}, expected classes of the model: {", ".join(classes)}'
        )
    if len(set(change.classes)) < len(change.classes):
        raise ValueError(f'--swap: got {change.classes[0]} twice, expected two classes')
    if change.kind == 'drop' and len(classes) == 1:
        raise ValueError(
            f'--drop: got {change.classes[0]}, the only class: there is no other text to stand in for its own'
        )
    return [list(classes).index(name) for name in change.classes]


def default_changes(embeddings: Tensor, classes: Sequence[str]) -> list[TextChange]:
    """Each class dropped, and each swapped with the class whose text is most like its own; none of a single class."""
    if len(classes) < 2:
        return []
    similarity = text_similarity(embeddings).fill_diagonal_(-torch.inf)
    nearest = similarity.argmax(dim=1).tolist()
    pairs = dict.fromkeys(tuple(sorted(pair)) for pair in enumerate(nearest))
    drops = [TextChange('drop', (name,)) for name in classes]
    return drops + [TextChange('swap', (classes[i], classes[j])) for i, j in pairs]


@contextmanager
def other_texts(model: DEIMMultimodal, embeddings: Tensor) -> Iterator[None]:
    """Run the body with other texts (K, T) of the model's own classes; afterwards it has its own again, to the last bit."""
    fusion = model.fusion
    held, text_model = fusion.context.text_embeddings, fusion.context.text_model
    labels = range(len(model.classes))
    try:
        fusion.set_texts(embeddings, labels)
        yield
    finally:
        fusion.set_texts(held, labels)
        fusion.context.text_model = text_model


def look_up_texts(
    model: DEIMMultimodal, text: Mapping[str, Any], descriptions: str | None = None
) -> TextRecord:
    """Look for the texts of a model where its config has them from, and for their sentences.

    Sentences of a file of embeddings are looked for in the JSON files beside it: in the one whose prompts have the hash that
    the file of embeddings has.

    Args:
        model: with its texts.
        text: `text` of the model's config.
        descriptions: JSON file to take the sentences from.

    Raises:
        FileNotFoundError, ValueError: `descriptions` cannot be read.
    """
    path = text.get('embeddings')
    if path is None:
        return _without_file(model, text, descriptions)
    try:
        found = read_text_embeddings(path)
    except (OSError, ValueError) as error:
        record = _without_file(model, text, descriptions)
        return record._replace(notes=[f'The texts could not be looked up: {error}', *record.notes])
    owners = {
        name: _owner(row, name, found)
        for name, row in zip(model.classes, model.fusion.context.text_embeddings, strict=True)
    }
    notes = _owner_notes(owners, str(path))
    if not any(owners.values()):
        record = _without_file(model, {}, descriptions)
        return record._replace(notes=notes + record.notes)
    known, note = _prompts_of(found, Path(path), descriptions)
    sentences = {name: known[own] for name, own in owners.items() if own in known}
    source = dict(file=str(path), **{key: getattr(found, key) for key in _SOURCE_KEYS})
    return TextRecord(source, owners, sentences, notes + [note] * bool(note))


def _without_file(
    model: DEIMMultimodal, text: Mapping[str, Any], descriptions: str | None
) -> TextRecord:
    """What a config with a text model says of it, which cannot be compared with the texts of the checkpoint."""
    encoder = text.get('encoder') or {}
    language = text.get('language', 'en')
    source = dict.fromkeys(('file', *_SOURCE_KEYS))
    source |= dict(model=encoder.get('model'), language=language if encoder else None)
    file = descriptions or text.get('descriptions')
    sentences = {}
    if file and (descriptions or Path(file).expanduser().is_file()):
        templates = text.get('templates', TEMPLATES)
        sentences = _by_class(class_prompts(read_descriptions(file), language, templates))
    owners = [model.classes[index] for index in model.permutation]
    own = {
        name: sentences[owner]
        for name, owner in zip(model.classes, owners, strict=True)
        if owner in sentences
    }
    note = 'Whether the checkpoint holds these texts in this order is not known: there is no file of embeddings.'
    if encoder.get('trainable'):
        note += ' The text model was fine-tuned with the detector.'
    return TextRecord(source, dict.fromkeys(model.classes), own, [note])


def _owner(row: Tensor, name: str, found: TextEmbeddings) -> str | None:
    """The name in a file of embeddings whose vector is this row; its own where several are the same."""
    if row.shape != found.vectors.shape[1:]:
        return None
    same = (found.vectors - row.cpu().float()).abs().amax(dim=1) < _TOLERANCE
    names = [own for own, fits in zip(found.names, same.tolist(), strict=True) if fits]
    return name if name in names else next(iter(names), None)


def _owner_notes(owners: Mapping[str, str | None], file: str) -> list[str]:
    strangers = [name for name, owner in owners.items() if owner is None]
    exchanged = [
        f'{name} has that of {own}' for name, own in owners.items() if own not in (name, None)
    ]
    notes = []
    if strangers:
        notes.append(f'The texts of {", ".join(strangers)} in the checkpoint are not in {file}.')
    if exchanged:
        notes.append(f'Not every class has its own text: {"; ".join(exchanged)}.')
    return notes


def _prompts_of(
    found: TextEmbeddings, file: Path, descriptions: str | None
) -> tuple[dict[str, list[str]], str]:
    """Prompts by class, and a note where they are not those of the embeddings, as far as can be told."""
    if descriptions:
        prompts = class_prompts(read_descriptions(descriptions), found.language)
        fits = hash_prompts(prompts) == found.text_hash
        note = f'The sentences of {descriptions} are not those that {file} was made of, or had other templates.'
        return _by_class(prompts), '' if fits else note
    for path in sorted(file.expanduser().parent.glob('*.json')):
        try:
            prompts = class_prompts(read_descriptions(path), found.language)
        except (OSError, ValueError):
            continue  # some other JSON file, or other languages
        if hash_prompts(prompts) == found.text_hash:
            return _by_class(prompts), ''
    note = f'No JSON file beside {file} has the sentences that it was made of; name one with --sentences.'
    return {}, note


def _by_class(prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for prompt in prompts:
        texts.setdefault(prompt.name, []).append(prompt.text)
    return texts
