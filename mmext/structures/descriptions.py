"""What each class looks like, in words: a JSON file of sentences and keywords, in one language or several.

    {"classes": [{"name": "Crack",
                  "description": {"en": "a thin dark line ...", "es": "una línea oscura y fina ..."},
                  "keywords": {"en": ["crack", ...], "es": ["grieta", ...]}}]}

`"optional": true` marks a class that a data set may be without, such as NORMAL: an image without objects.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_KEYS = ('name', 'description', 'keywords', 'optional')


class ClassDescription(NamedTuple):
    """A class in words.

    Attributes:
        name: as in the data set.
        description: by language, a sentence.
        keywords: by language, short names and looks; () where there are none.
        optional: whether a data set may be without the class.
    """

    name: str
    description: dict[str, str]
    keywords: dict[str, tuple[str, ...]]
    optional: bool


def read_descriptions(path: str | Path) -> tuple[ClassDescription, ...]:
    """Read a file of descriptions and check it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON of the form above, a text is empty or no text, a class or a keyword comes twice, two
            classes have the same description, or a class lacks a language that others have.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f'descriptions {path} do not exist; give the path of a JSON file')
    try:
        content = json.loads(file.read_text(encoding='utf-8'), object_pairs_hook=_without_repeats)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no JSON in UTF-8: {error}') from error
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    entries = content.get('classes') if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or len(content) > 1:
        raise ValueError(
            f'{path} holds no descriptions: expected {{"classes": [...]}} and nothing else, with an entry for each class'
        )
    descriptions = tuple(
        _read_class(entry, f'{path}, entry {i}') for i, entry in enumerate(entries)
    )
    _check_together(descriptions, str(path))
    return descriptions


def check_classes(
    descriptions: Sequence[ClassDescription], class_names: Sequence[str], source: str
) -> None:
    """The descriptions must be of these classes, in their order; optional ones may be absent from them.

    Args:
        descriptions: as read.
        class_names: of the data set.
        source: the file, for messages.

    Raises:
        ValueError: a class has no description, a description has no class, or the order differs.
    """
    described = [entry.name for entry in descriptions]
    missing = [name for name in class_names if name not in described]
    unknown = [e.name for e in descriptions if e.name not in class_names and not e.optional]
    if missing or unknown:
        parts = [f'no description of {", ".join(missing)}'] if missing else []
        parts += [f'{", ".join(unknown)}, which the data set has not'] if unknown else []
        raise ValueError(
            f'{source} has {" and ".join(parts)}: got descriptions of {", ".join(described)}, expected those of '
            f'{", ".join(class_names)}. Correct the names, or mark as "optional": true what the data set may be without.'
        )
    in_order = [name for name in described if name in class_names]
    if in_order != list(class_names):
        raise ValueError(
            f'{source} has another order than the data set: got {", ".join(in_order)}, expected '
            f'{", ".join(class_names)}. Sort the entries of the file.'
        )


def languages_of(descriptions: Iterable[ClassDescription]) -> tuple[str, ...]:
    """Those that all classes have, in the order of the file."""
    return tuple(next(iter(descriptions)).description)


def _read_class(entry: Any, place: str) -> ClassDescription:
    if not isinstance(entry, dict):
        raise ValueError(f'{place}: got {entry!r}, expected an object with {", ".join(_KEYS[:3])}')
    name = _text(entry.get('name'), f'{place}: name')
    place = f'{place} ({name})'
    wrong = [key for key in entry if key not in _KEYS]
    if wrong:
        raise ValueError(f'{place}: got {", ".join(wrong)}, expected only {", ".join(_KEYS)}')
    optional = entry.get('optional', False)
    if not isinstance(optional, bool):
        raise ValueError(f'{place}: got optional {optional!r}, expected true or false')
    description = _by_language(entry.get('description'), f'{place}: description', 'a sentence')
    keywords = _by_language(entry.get('keywords', {}), f'{place}: keywords', 'a list')
    extra = [language for language in keywords if language not in description]
    if extra:
        raise ValueError(f'{place}: keywords, but no description in {", ".join(extra)}')
    if not description:
        raise ValueError(f'{place}: description is in no language, expected {{"en": "..."}}')
    return ClassDescription(
        name,
        {lang: _text(text, f'{place}: description, {lang}') for lang, text in description.items()},
        {
            lang: _words(keywords.get(lang, []), f'{place}: keywords, {lang}')
            for lang in description
        },
        optional,
    )


def _by_language(value: Any, place: str, kind: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'{place}: got {value!r}, expected {kind} by language, {{"en": ...}}')
    return value


def _words(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f'{place}: got {value!r}, expected a list of texts')
    words = tuple(_text(word, place) for word in value)
    _refuse_repeats(words, place)
    return words


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'{place}: got {value!r}, expected a text that is not empty')
    return value.strip()


def _check_together(descriptions: Sequence[ClassDescription], path: str) -> None:
    """What no entry can be blamed for alone."""
    _refuse_repeats([entry.name for entry in descriptions], f'{path}: names')
    languages = list(dict.fromkeys(lang for entry in descriptions for lang in entry.description))
    for language in languages:
        without = [entry.name for entry in descriptions if language not in entry.description]
        if without:
            raise ValueError(
                f'{path}: {", ".join(without)} has no description in {language}, which other classes have. Write it, or '
                'leave the language out everywhere.'
            )
        texts = [entry.description[language] for entry in descriptions]
        _refuse_repeats(texts, f'{path}: descriptions of the classes, {language}')


def _refuse_repeats(values: Iterable[str], place: str) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f'{place}: {", ".join(map(repr, repeated))} comes twice, expected once')


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON takes the last of two entries of one name without a word."""
    _refuse_repeats([key for key, _ in pairs], 'entries of an object')
    return dict(pairs)
