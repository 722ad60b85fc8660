"""Files of text embeddings: what is written is read, by name; damaged ones are refused."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from mmext.models.common.text_embeddings import (
    TextEmbeddings,
    load_text_embeddings,
    read_text_embeddings,
    save_text_embeddings,
)

ROWS = torch.eye(3, 4)
EMBEDDINGS = TextEmbeddings(('Crack', 'Hole', 'Araña'), ROWS, 'a/clip', 'abc', 'def', 'es')


@pytest.fixture
def path(tmp_path):
    save_text_embeddings(tmp_path / 'new' / 'a.safetensors', EMBEDDINGS)
    return tmp_path / 'new' / 'a.safetensors'


def test_file__holds_all_that_was_written(path):
    found = read_text_embeddings(path)
    assert torch.equal(found.vectors, ROWS)
    assert found._replace(vectors=ROWS) == EMBEDDINGS
    assert [file.name for file in path.parent.iterdir()] == ['a.safetensors']


def test_load__rows_by_name(path):
    rows = load_text_embeddings(path, ['Araña', 'Crack'])
    assert rows.dtype == torch.float32
    assert torch.equal(rows, ROWS[[2, 0]])


def test_load__missing_class(path):
    with pytest.raises(ValueError, match=r'no text embedding of Dent: it has Crack, Hole, Araña'):
        load_text_embeddings(path, ['Crack', 'Dent'])


@pytest.mark.parametrize(
    ('names', 'message'),
    [(['Hole', 'Hole'], 'Hole twice'), ([], 'one name or more'), ('Hole', 'one name or more')],
    ids=['twice', 'none', 'text'],
)
def test_load__odd_class_names(path, names, message):
    with pytest.raises(ValueError, match=message):
        load_text_embeddings(path, names)


def test_read__missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'embed_text.py DESCRIPTIONS.json MODEL_FOLDER'):
        read_text_embeddings(tmp_path / 'a.safetensors')


def test_read__damaged_file(path):
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match='cannot be read as text embeddings'):
        read_text_embeddings(path)


def test_read__weights_of_a_model(tmp_path):
    save_file({'weight': ROWS}, tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='holds no text embeddings'):
        read_text_embeddings(tmp_path / 'model.safetensors')


def test_read__file_of_another_version(tmp_path):
    header = dict(kind='mmext.text_embeddings', version='2')
    save_file({'embeddings': ROWS}, tmp_path / 'a.safetensors', metadata=header)
    with pytest.raises(ValueError, match='is of version 2, expected version 1'):
        read_text_embeddings(tmp_path / 'a.safetensors')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(vectors=ROWS * torch.nan), 'Crack, Hole, Araña are not finite'),
        (dict(vectors=ROWS * torch.tensor([[1.0], [2.0], [1.0]])), 'of Hole are not finite or not'),
        (dict(vectors=ROWS.double()), 'got embeddings torch.float64'),
        (dict(vectors=ROWS[:, :0]), r'got embeddings torch.float32 \(3, 0\)'),
        (dict(vectors=ROWS[:2]), 'got 2 embeddings for the classes Crack, Hole, Araña'),
        (dict(names=('a', 'b', 'b')), 'no class twice'),
    ],
    ids=['nan', 'length', 'double', 'empty', 'rows', 'names'],
)
def test_save__wrong_embeddings_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        save_text_embeddings(tmp_path / 'a.safetensors', EMBEDDINGS._replace(**changes))


def test_load__classes_left_out_are_logged(path, monkeypatch):
    lines = []
    monkeypatch.setattr(
        'mmext.models.common.text_embeddings.print_log',
        lambda text, *_, level: lines.append((text, level)),
    )
    load_text_embeddings(path, ['Hole'])
    assert lines == [(f'{path}: Crack, Araña not used', logging.INFO)]
