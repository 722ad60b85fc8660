"""Mistakes in `text` of `mmext.DEIMMultimodal`, and text models that are not there."""

from pathlib import Path

import pytest

from tests.models.fused_texts import build, logits, of_file, of_model, train, write_texts


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('texts')
    write_texts(folder)
    return folder


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(embeddings='a'), 'both embeddings and encoder, expected one of them'),
        (dict(order=1), r"'order'\], expected classes, embeddings .*; or classes, descriptions"),
        (dict(encoder=dict(model='a')), r"expected dict\(type='mmext.TextEncoder', model=FOLDER"),
        (dict(encoder=dict(type='mmext.DEIM')), r"expected dict\(type='mmext.TextEncoder'"),
        (dict(encoder=dict(type='mmext.TextEncoder', language='es')), 'got language in text.enc'),
        (dict(encoder=dict(type='mmext.TextEncoder', path='a')), 'with path, expected .*model'),
        (dict(encoder=dict(type='mmext.TextEncoder', trainable=['a'])), 'learns needs its folder'),
    ],
    ids='both unknown typeless kind language path modelless'.split(),
)
def test_settings__that_contradict_each_other(folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(of_model(folder, changes))


def test_settings__sentences_need_a_text_model(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'descriptions', 'embeddings'\], expected classes"):
        build(of_file(folder, descriptions='a.json'))


@pytest.mark.parametrize(
    ('text', 'error', 'message'),
    [
        (dict(model='gone'), FileNotFoundError, 'Nothing is downloaded'),
        (dict(model='gone', trainable=['a']), FileNotFoundError, 'not here: gone. Training needs'),
        (dict(model=None), ValueError, 'got no model, and no text embeddings'),
        (dict(), ValueError, r'got text embeddings \(3, 16\), expected \(classes, 8\)'),
    ],
    ids=['frozen', 'learning', 'modelless', 'channels'],
)
def test_first_use__without_texts_that_fit(
    folder: Path, text: dict, error: type[Exception], message: str
) -> None:
    model = build(of_model(folder, **text), text_dim=8)
    for use in (logits, train):
        with pytest.raises(error, match=message):
            use(model)
