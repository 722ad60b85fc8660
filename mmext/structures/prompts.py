"""Sentences for a text model, from the descriptions of classes and templates.

An ensemble: a class has several prompts, whose embeddings are averaged. Each template has the same share, whatever the number of
keywords, so that a class with many keywords does not lose its description.
"""

import hashlib
import json
from collections.abc import Sequence
from string import Formatter
from typing import NamedTuple

from mmext.structures.descriptions import ClassDescription, languages_of

# Works in every language. For CLIP 'a close-up photo of {keyword}' is the usual addition.
TEMPLATES = ('{description}', '{keyword}')
_FIELDS = ('name', 'description', 'keyword')


class Prompt(NamedTuple):
    """A text of a class.

    Attributes:
        name: of the class.
        text: for the text model.
        weight: share in the embedding of the class; those of a class add up to 1.
    """

    name: str
    text: str
    weight: float


def class_prompts(
    descriptions: Sequence[ClassDescription],
    language: str,
    templates: Sequence[str] = TEMPLATES,
) -> list[Prompt]:
    """The prompts of all classes, class by class.

    Args:
        descriptions: of the classes.
        language: one that they have, 'en' for example.
        templates: texts with {name}, {description} or {keyword}; one with {keyword} gives a prompt for each keyword,
            and none for classes without.

    Raises:
        ValueError: no such language, a wrong template, or a class has no prompt at all.
    """
    known = languages_of(descriptions)
    if language not in known:
        raise ValueError(f'got language {language}, expected one of the file: {", ".join(known)}')
    _check_templates(templates)
    return [prompt for entry in descriptions for prompt in _of_class(entry, language, templates)]


def hash_prompts(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the texts and their shares, the same for every order of the classes."""
    content = json.dumps(sorted([p.name, p.text, round(p.weight, 9)] for p in prompts))
    return hashlib.sha256(content.encode()).hexdigest()


def _of_class(entry: ClassDescription, language: str, templates: Sequence[str]) -> list[Prompt]:
    groups = []
    for template in templates:
        keywords = entry.keywords[language] if 'keyword' in _fields_of(template) else ('',)
        fields = dict(name=entry.name, description=entry.description[language])
        groups.append([template.format(keyword=keyword, **fields) for keyword in keywords])
    groups = [group for group in groups if group]
    if not groups:
        raise ValueError(
            f'{entry.name} has no keywords in {language} and so no prompt of the templates {", ".join(templates)}; add '
            'keywords, or the template {description}'
        )
    return [
        Prompt(entry.name, text, 1 / len(groups) / len(group)) for group in groups for text in group
    ]


def _check_templates(templates: Sequence[str]) -> None:
    if isinstance(templates, str) or not templates:
        raise ValueError(f'got templates {templates!r}, expected a list of one text or more')
    for template in templates:
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f'template {template!r} cannot be read: {error}') from error
        fields = _fields_of(template)
        plain = all(not spec and not conversion for _, _, spec, conversion in parts)
        if not fields or not plain or any(field not in _FIELDS for field in fields):
            raise ValueError(
                f'got template {template!r}, expected a text with {", ".join(f"{{{f}}}" for f in _FIELDS)}, one or more'
            )


def _fields_of(template: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(template) if field is not None]
