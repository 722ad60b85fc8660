"""Descriptions of classes: reading, and what is refused; prompts from templates."""

import json
from pathlib import Path

import pytest

from mmext.structures.descriptions import ClassDescription, check_classes, read_descriptions
from mmext.structures.prompts import Prompt, class_prompts, hash_prompts

SHIPPED = Path(__file__).resolve().parents[2] / 'configs' / 'deim' / 'descriptions'
CRACK = dict(
    name='Crack',
    description=dict(en='a thin dark line', es='una línea oscura'),
    keywords=dict(en=['crack', 'hair'], es=['grieta']),
)
HOLE = dict(name='Hole', description=dict(en='a round pit', es='un hoyo redondo'))
NORMAL = dict(name='NORMAL', description=dict(en='clean', es='limpio'), optional=True)


@pytest.fixture
def read(tmp_path):
    def write_and_read(*entries):
        path = tmp_path / 'classes.json'
        path.write_text(json.dumps(dict(classes=entries)))
        return read_descriptions(path)

    return write_and_read


def test_read__texts_by_language(read):
    assert read(CRACK, NORMAL) == (
        ClassDescription(
            'Crack',
            dict(en='a thin dark line', es='una línea oscura'),
            dict(en=('crack', 'hair'), es=('grieta',)),
            False,
        ),
        ClassDescription('NORMAL', dict(en='clean', es='limpio'), dict(en=(), es=()), True),
    )


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(name=' '), r"entry 0: name: got ' ', expected a text that is not empty"),
        (dict(description='a line'), r"\(Crack\): description: got 'a line', expected a sentence"),
        (dict(description=dict(en='', es='x')), r"description, en: got ''"),
        (dict(description={}, keywords={}), 'description is in no language'),
        (dict(description=dict(en='a line'), keywords={}), 'Crack has no description in es'),
        (dict(description=HOLE['description']), "en: 'a round pit' comes twice"),
        (dict(name='Hole'), "names: 'Hole' comes twice"),
        (dict(keywords=dict(en='crack')), 'keywords, en: got .* expected a list'),
        (dict(keywords=dict(en=['x', 'x'])), "keywords, en: 'x' comes twice"),
        (dict(keywords=dict(fr=['x'])), 'keywords, but no description in fr'),
        (dict(optional='yes'), 'got optional .* expected true or false'),
        (dict(keyword=['x']), r'\(Crack\): got keyword, expected only name'),
    ],
    ids='name text empty none language same class list keyword french optional misspelt'.split(),
)
def test_read__mistakes_name_the_place(read, changes, message):
    with pytest.raises(ValueError, match=message):
        read(CRACK | changes, HOLE)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'is no JSON'),
        ('[]', 'holds no descriptions'),
        ('{"classes": []}', 'holds no descriptions'),
        ('{"classes": [1]}', 'got 1, expected an object'),
        ('{"classes": [], "classes": []}', "'classes' comes twice"),
    ],
    ids=['damaged', 'list', 'empty', 'number', 'repeated'],
)
def test_read__other_files_are_refused(tmp_path, text, message):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_descriptions(tmp_path / 'a.json')


def test_read__missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='do not exist'):
        read_descriptions(tmp_path / 'a.json')


def test_check_classes__optional_ones_may_be_absent(read):
    check_classes(read(NORMAL, CRACK, HOLE), ['Crack', 'Hole'], 'a.json')
    check_classes(read(NORMAL, CRACK, HOLE), ['NORMAL', 'Crack', 'Hole'], 'a.json')


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['Crack', 'Hole', 'Dent'], 'no description of Dent: '),
        (['Crack'], 'Hole, which the data set has not'),
        (['Crack', 'hole'], 'no description of hole and Hole, which'),
        (['Hole', 'Crack'], 'another order .* got Crack, Hole, expected Hole, Crack. Sort'),
    ],
    ids=['missing', 'unknown', 'case', 'order'],
)
def test_check_classes__mistakes(read, names, message):
    with pytest.raises(ValueError, match=message):
        check_classes(read(CRACK, HOLE, NORMAL), names, 'a.json')


def test_prompts__templates_have_equal_shares(read):
    assert class_prompts(read(CRACK, HOLE), 'en') == [
        Prompt('Crack', 'a thin dark line', 0.5),
        Prompt('Crack', 'crack', 0.25),
        Prompt('Crack', 'hair', 0.25),
        Prompt('Hole', 'a round pit', 1.0),
    ]


def test_prompts__fields_and_language(read):
    templates = ['{name}: {description}', 'foto de {keyword}']
    assert class_prompts(read(CRACK), 'es', templates) == [
        Prompt('Crack', 'Crack: una línea oscura', 0.5),
        Prompt('Crack', 'foto de grieta', 0.5),
    ]


@pytest.mark.parametrize(
    ('language', 'templates', 'message'),
    [
        ('fr', ['{name}'], 'got language fr, expected one of the file: en, es'),
        ('en', [], r'got templates \[\]'),
        ('en', '{name}', 'expected a list'),
        ('en', ['a photo'], "got template 'a photo'"),
        ('en', ['{colour}'], 'expected a text with {name}, {description}, {keyword}'),
        ('en', ['{name!r}'], 'expected a text with'),
        ('en', ['{name'], 'cannot be read'),
        ('en', ['{keyword}'], 'Hole has no keywords in en'),
    ],
    ids=['language', 'none', 'text', 'plain', 'unknown', 'conversion', 'brace', 'keywords'],
)
def test_prompts__mistakes(read, language, templates, message):
    with pytest.raises(ValueError, match=message):
        class_prompts(read(CRACK, HOLE), language, templates)


def test_hash__of_texts_and_shares_and_not_of_order(read):
    first = hash_prompts(class_prompts(read(CRACK, HOLE), 'en'))
    assert hash_prompts(class_prompts(read(HOLE, CRACK), 'en')) == first
    assert hash_prompts(class_prompts(read(CRACK, HOLE), 'es')) != first
    swapped = [CRACK | dict(name='Hole'), HOLE | dict(name='Crack')]
    assert hash_prompts(class_prompts(read(*swapped), 'en')) != first


@pytest.mark.parametrize(
    ('name', 'base'),
    [
        ('industrial_defects', 'industrial'),
        ('industrial_defects', 'synthetic_defects'),
        ('magnetic_tile', 'magnetic_tile'),
    ],
)
def test_shipped__descriptions_fit_the_data_sets(name, base):
    from mmengine.config import Config

    config = Config.fromfile(SHIPPED.parents[1] / '_base_' / 'datasets' / f'{base}.py')
    entries = read_descriptions(SHIPPED / f'{name}.json')
    check_classes(entries, config.metainfo['classes'], name)
    for language in ('en', 'es'):
        prompts = class_prompts(entries, language)
        # Each class has its sentence and keywords.
        assert len(prompts) >= 4 * len(entries)
