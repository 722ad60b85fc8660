"""`mmext.TextEncoder`: from a model or a file, frozen or learning; what its file is worth without the model."""

import json
import sys

import pytest
import torch

from mmext.models.common.text_embeddings import read_text_embeddings, save_text_embeddings
from mmext.models.common.text_encoder import embed_prompts
from mmext.models.common.text_model import TextModel
from mmext.registry import MODELS
from mmext.structures.prompts import Prompt
from tests.models.text_models import write_bert

LAST_LAYER = r'encoder\.layer\.1\.'
NAMES = ('Crack', 'Hole')
CLASSES = [
    dict(
        name='Crack',
        description=dict(en='a thin dark line', es='una grieta'),
        keywords=dict(en=['crack', 'long scratch'], es=['grieta']),
    ),
    dict(name='Hole', description=dict(en='round hole', es='hole')),
]


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models') / 'bert'
    write_bert(folder)
    return folder


@pytest.fixture
def build(tmp_path, model_folder):
    """Build an encoder with other settings than these, or of other `classes`."""

    def build_encoder(classes=CLASSES, **settings):
        descriptions = tmp_path / 'classes.json'
        descriptions.write_text(json.dumps(dict(classes=classes)))
        config = dict(
            type='mmext.TextEncoder',
            descriptions=str(descriptions),
            class_names=NAMES,
            model=str(model_folder),
        )
        return MODELS.build(config | settings)

    return build_encoder


@pytest.fixture
def no_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)


def test_embed_prompts__weighted_mean_of_single_texts(model_folder):
    prompts = [
        Prompt('Crack', 'a thin dark line', 0.75),
        Prompt('Crack', 'crack', 0.25),
        Prompt('Hole', 'hole', 1.0),
    ]
    found = embed_prompts(prompts, model_folder, language='en')
    model = TextModel(model_folder)
    with torch.no_grad():
        line, crack, hole = (model(model.tokenize([prompt.text]))[0] for prompt in prompts)
    mean = 0.75 * line + 0.25 * crack
    assert found.names == NAMES
    assert torch.allclose(found.vectors[0], mean / mean.norm(), atol=1e-6)
    assert torch.allclose(found.vectors[1], hole, atol=1e-6)
    assert found.model.endswith('/bert')


def test_frozen__the_file_needs_neither_model_nor_transformers(build, tmp_path, request):
    cache = tmp_path / 'a.safetensors'
    live = build()
    first = build(cache=str(cache))
    request.getfixturevalue('no_transformers')
    with pytest.raises(ImportError):
        build()
    for model in (None, str(tmp_path / 'elsewhere' / 'bert')):
        cached = build(model=model, cache=str(cache))
        assert torch.equal(cached(), live()) and torch.equal(first(), live())
    assert live().shape == (2, live.embed_dims) == (2, 16)
    assert list(cached.state_dict()) == ['embeddings'] and not list(cached.parameters())


def test_frozen__classes_that_the_data_set_is_without(build):
    normal = dict(name='NORMAL', description=dict(en='oil', es='a'), optional=True)
    assert torch.allclose(build([normal, *CLASSES])(), build()(), atol=1e-6)


@pytest.mark.parametrize(
    ('settings', 'why'),
    [
        (dict(language='es'), 'made of other descriptions, another language or other templates'),
        (dict(templates=['{name}']), 'made of other descriptions'),
        (dict(model='elsewhere/clip'), 'made with another text model, .*/bert'),
    ],
    ids=['language', 'templates', 'model'],
)
def test_cache__outdated_without_the_model(build, tmp_path, settings, why):
    cache = str(tmp_path / 'a.safetensors')
    build(cache=cache)
    with pytest.raises(ValueError, match=f'outdated: {why}.* the text model is not here'):
        build(cache=cache, **{'model': None, **settings})


def test_cache__outdated_is_written_anew(build, tmp_path):
    cache = tmp_path / 'a.safetensors'
    build(cache=str(cache))
    before = read_text_embeddings(cache)
    spanish = build(cache=str(cache), language='es')
    after = read_text_embeddings(cache)
    assert after.text_hash != before.text_hash and after.language == 'es'
    assert torch.equal(spanish(), after.vectors)


def test_cache__of_a_model_with_other_weights_is_written_anew(build, tmp_path):
    write_bert(tmp_path / 'bert', seed=5)
    cache = str(tmp_path / 'a.safetensors')
    build(cache=cache)
    other = build(cache=cache, model=str(tmp_path / 'bert'))
    assert torch.equal(other(), build(model=str(tmp_path / 'bert'))())


def test_learning__only_the_named_parameters_get_gradients(build):
    encoder = build(trainable=[LAST_LAYER]).train()
    encoder()[:, 0].sum().backward()
    learned = {name for name, value in encoder.named_parameters() if value.grad is not None}
    assert learned == {n for n, _ in encoder.named_parameters() if 'encoder.layer.1.' in n}
    assert learned == {name for name, value in encoder.named_parameters() if value.requires_grad}


def test_learning__starts_as_the_frozen_one_and_moves(build, tmp_path):
    encoder, frozen = build(trainable=[LAST_LAYER]).train(), build()
    # As a Runner does: nothing of the text model may be drawn anew.
    encoder.init_weights()
    # Dropout of BERT would show here.
    assert torch.allclose(encoder(), frozen(), atol=1e-6)
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.5)
    before = (encoder()[0] @ encoder()[1]).item()
    for _ in range(3):
        optimizer.zero_grad()
        (encoder()[0] @ encoder()[1]).backward()
        optimizer.step()
    assert (encoder()[0] @ encoder()[1]).item() < before - 0.01
    save_text_embeddings(tmp_path / 'learned.safetensors', encoder.snapshot())
    learned = read_text_embeddings(tmp_path / 'learned.safetensors')
    assert torch.equal(learned.vectors, encoder().detach())
    assert learned.model.endswith('bert, fine-tuned')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(model=None), 'got no model, and no text embeddings in cache=None'),
        (dict(class_names=['Hole', 'Crack']), 'has another order'),
        (dict(language='fr'), 'got language fr'),
        (dict(trainable=['decoder']), "trainable 'decoder' matches no parameter"),
        (dict(trainable=['(']), 'is no regular expression'),
        (dict(trainable='encoder'), 'expected a list of regular expressions'),
        (dict(trainable=['pooler']), 'pooler.dense.bias, which the embeddings do not depend on'),
        (dict(trainable=[LAST_LAYER], cache='a'), 'give model and no cache'),
        (dict(trainable=[LAST_LAYER], model=None), 'needs its folder'),
    ],
    ids='nothing order language unmatched wrong text idle cache modelless'.split(),
)
def test_settings__mistakes(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_settings__missing_model_is_not_downloaded(build, monkeypatch):
    with pytest.raises(FileNotFoundError, match='Nothing is downloaded'):
        build(model='openai/clip-vit-base-patch32')
