"""Where the texts of `mmext.DEIMMultimodal` come from: a file, a text model that stays as it is, or one that learns.

What is made of them is the same everywhere: rows of length 1 in the buffer of the fusion, which the checkpoint holds. So
tests and deployment need neither the text model nor transformers, whatever the training needed.

Shape letters: K classes, T channels of the text model.
"""

import inspect
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmext.models.common.text_embeddings import TextEmbeddings, read_text_embeddings, select_rows
from mmext.models.common.text_model import hash_model
from mmext.registry import MODELS

_SHARED_KEYS = {'classes', 'permutation'}
# Of the sentences; an encoder gets them from here.
_SENTENCE_KEYS = {'descriptions', 'language', 'templates'}
_KEYS = _SHARED_KEYS | _SENTENCE_KEYS | {'embeddings', 'encoder'}
_GIVEN_KEYS = _SENTENCE_KEYS | {'class_names'}


class TextSource(Protocol):
    """Texts of classes.

    Attributes:
        name: for messages.
    """

    name: str

    def is_here(self) -> bool:
        """Whether training takes these texts, and not those of a checkpoint."""

    def read(self, classes: Sequence[str]) -> TextEmbeddings:
        """The embeddings of these classes, in their order.

        Raises:
            FileNotFoundError, ValueError: they are not here, or do not fit.
        """


def build_text_source(text: Mapping[str, Any]) -> TextSource:
    """The source that `text` of `mmext.DEIMMultimodal` asks for.

    Raises:
        ValueError: entries are missing, unknown or contradict each other.
    """
    _check_keys(text)
    if 'encoder' not in text:
        return TextFile(text['embeddings'])
    config = dict(text['encoder']) | {key: text[key] for key in _SENTENCE_KEYS if key in text}
    config['class_names'] = tuple(text['classes'])
    if not config.get('trainable'):
        return FrozenTexts(config)
    missing = _missing(config)
    return AbsentTexts(config, missing) if missing else LearningTexts(config)


class TextFile:
    """Texts of a file.

    Args:
        path: file of `tools/embed_text.py`; None where a checkpoint has the texts.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.name = str(path)

    def is_here(self) -> bool:
        """Whether the file exists."""
        return _exists(self.path)

    def read(self, classes: Sequence[str]) -> TextEmbeddings:
        """See `TextSource`."""
        if self.path is None:
            raise ValueError(
                'DEIMMultimodal: got no texts; load a checkpoint that was trained with texts, or set text.embeddings to '
                'a file of tools/embed_text.py.'
            )
        found = read_text_embeddings(self.path)
        rows = select_rows(found, classes, self.path)
        return found._replace(names=tuple(classes), vectors=rows)


class FrozenTexts:
    """Texts by a text model that stays as it is: it is read when they are asked for, and not kept.

    Args:
        config: of `mmext.TextEncoder`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.name = _name_of(config)

    def is_here(self) -> bool:
        """Whether the sentences are here, and the text model or what it has made of them before."""
        model, cache = (self.config.get(key) for key in ('model', 'cache'))
        return _exists(self.config['descriptions']) and (_exists(model) or _exists(cache))

    def read(self, classes: Sequence[str]) -> TextEmbeddings:
        """See `TextSource`."""
        # Before the first step, in the autocast of the training: a file has the texts of the weights' precision.
        with torch.autocast('cpu', enabled=False):
            return _build_encoder(self.config).snapshot()


class AbsentTexts:
    """Texts by a text model that learns, where it cannot be read: enough for tests, which take those of the checkpoint.

    Args:
        config: of `mmext.TextEncoder`.
        missing: what is not here.
    """

    def __init__(self, config: Mapping[str, Any], missing: Sequence[str]) -> None:
        self.name = _name_of(config)
        self.missing = ', '.join(missing)
        # An optimizer with a rate for it stops before the first step, where `read` would say so.
        print_log(
            f'DEIMMultimodal: no text model that learns, as this is not here: {self.missing}. Enough for tests with a '
            'checkpoint that has texts; training needs it.',
            'current',
            level=30,
        )

    def is_here(self) -> bool:
        """True: training needs this text model, whatever a checkpoint has."""
        return True

    def read(self, classes: Sequence[str]) -> TextEmbeddings:
        """Raises FileNotFoundError."""
        raise FileNotFoundError(
            f'DEIMMultimodal: got text.encoder.trainable, and this is not here: {self.missing}. Training needs the '
            'descriptions, the folder of the text model (nothing is downloaded) and transformers; tests need a checkpoint '
            'of such a training. Give them, or leave trainable out.'
        )


class LearningTexts(nn.Module):
    """Texts by a text model of which a part learns with the detector.

    Called, it returns the embeddings (K, T) of all its classes, with gradients. Only what learns is a parameter and gets
    into checkpoints, a few MB of which a resumed training is in need; the rest is in the folder of the text model.

    Args:
        config: of `mmext.TextEncoder`, with `trainable`.
    """

    known: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = _name_of(config)
        self.encoder = _build_encoder(config)
        # Not that of the folder: its vectors are others from the first step on.
        self.model_hash = f'{hash_model(config["model"])}, fine-tuned'
        _make_constant(self.encoder)
        # The weights whose texts the fusion holds.
        self.register_buffer('known', self._weights(), persistent=False)

    def forward(self) -> Tensor:
        """In the precision of the weights, as the texts of tests are, whatever autocast says."""
        with torch.autocast(self.known.device.type, enabled=False):
            return self.encoder()

    def is_here(self) -> bool:
        """True: see `AbsentTexts`."""
        return True

    def read(self, classes: Sequence[str]) -> TextEmbeddings:
        """See `TextSource`."""
        self.remember()
        with torch.autocast(self.known.device.type, enabled=False):
            return self.encoder.snapshot()._replace(model_hash=self.model_hash)

    def remember(self) -> None:
        """The fusion holds the texts of the weights as they are now."""
        self.known.copy_(self._weights())

    def has_changed(self) -> bool:
        """Whether the weights are others than those whose texts the fusion holds.

        They are compared, since not only an optimizer changes them: a hook may exchange them with an average.
        """
        return not torch.equal(self.known, self._weights())

    @torch.no_grad()
    def _weights(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.encoder.parameters()).detach()


def _make_constant(module: nn.Module) -> None:
    """Turn what does not learn into buffers that are no part of the state dict."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                delattr(part, name)
                part.register_buffer(name, parameter.detach(), persistent=False)


def _build_encoder(config: Mapping[str, Any]) -> Any:
    # transformers draws what no file fills, though it is not used: a training is to be the same as one with a file.
    # With gradients, which show whether all that is to learn has a part in the texts.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        return MODELS.build(dict(config))


def _exists(path: str | None) -> bool:
    return path is not None and Path(path).expanduser().exists()


def _missing(config: Mapping[str, Any]) -> list[str]:
    """What a text model that learns needs and is not here; where no model is named, the encoder has the message."""
    paths = [config['descriptions'], config.get('model')]
    missing = [path for path in paths if path is not None and not _exists(path)]
    return missing + ['transformers'] * (find_spec('transformers') is None)


def _name_of(config: Mapping[str, Any]) -> str:
    return f'{config["descriptions"]} by {config.get("model") or config.get("cache")}'


def _check_keys(text: Mapping[str, Any]) -> None:
    keys = set(text)
    if {'embeddings', 'encoder'} <= keys:
        raise ValueError(
            'DEIMMultimodal: got text with both embeddings and encoder, expected one of them: texts are read from a file, '
            'or a text model makes them of descriptions. A config with _base_ needs text=dict(_delete_=True, ...).'
        )
    is_encoded = 'encoder' in keys
    needed = {'classes'} | ({'descriptions', 'encoder'} if is_encoded else {'embeddings'})
    allowed = needed | _SHARED_KEYS | (_SENTENCE_KEYS if is_encoded else set())
    if not needed <= keys <= allowed:
        raise ValueError(
            f'DEIMMultimodal: got text with {sorted(keys)}, expected classes, embeddings (a file or None) and, optionally, '
            'permutation; or classes, descriptions (a JSON file), encoder and, optionally, language, templates, permutation.'
        )
    if is_encoded:
        _check_encoder(text['encoder'])


def _check_encoder(config: Mapping[str, Any]) -> None:
    kind = config.get('type') if isinstance(config, Mapping) else None
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if kind is None or not hasattr(kind, 'snapshot'):
        raise ValueError(
            f"DEIMMultimodal: got text.encoder={config!r}, expected dict(type='mmext.TextEncoder', model=FOLDER)."
        )
    repeated = sorted(_GIVEN_KEYS & set(config))
    if repeated:
        raise ValueError(
            f'DEIMMultimodal: got {", ".join(repeated)} in text.encoder, expected them in text: classes, descriptions, '
            'language and templates are settings of the texts.'
        )
    known = set(inspect.signature(kind).parameters) - _GIVEN_KEYS
    unknown = sorted(set(config) - known - {'type'})
    if unknown:
        raise ValueError(
            f'DEIMMultimodal: got text.encoder with {", ".join(unknown)}, expected type and some of '
            f'{", ".join(sorted(known))}.'
        )
