"""Text models of transformers from folders, compared with what transformers and slow loops make of the same tokens."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetModel, XLMRobertaConfig, XLMRobertaModel

from mmext.models.common.text_model import TextModel, hash_model, mean_of_tokens
from tests.models.text_models import (
    ENDS,
    SIZES,
    write_bert,
    write_clip,
    write_siglip,
    write_tokenizer,
)

TEXTS = ['a thin dark line', 'round hole', 'a stain of oil']


@pytest.mark.parametrize('kind', ['both', 'projected', 'plain'])
def test_clip__vectors_are_those_of_transformers(tmp_path, kind):
    published = write_clip(tmp_path, kind)
    model = TextModel(tmp_path)
    tokens = model.tokenize(TEXTS)
    assert tokens['input_ids'].tolist()[1] == [2, 9, 10, 31, 0, 0]
    with torch.no_grad():
        if kind == 'both':
            expected = published.get_text_features(**tokens).pooler_output
        elif kind == 'projected':
            expected = published(**tokens).text_embeds
        else:
            expected = published(**tokens).pooler_output
        vectors = model(tokens)
    assert vectors.shape == (3, 16 if kind == 'plain' else 24)
    assert torch.allclose(vectors, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)


def test_clip__the_tower_for_images_is_left_out(tmp_path):
    write_clip(tmp_path, 'both')
    assert not any('vision_model' in name for name, _ in TextModel(tmp_path).named_parameters())


def test_siglip__texts_are_filled_up_to_the_full_length(tmp_path):
    published = write_siglip(tmp_path)
    model = TextModel(tmp_path)
    tokens = model.tokenize(['round hole'])
    assert tokens.keys() == {'input_ids'}
    full = torch.tensor([[2, 9, 10, 31, 0, 0, 0, 0, 0, 0]])
    assert torch.equal(tokens['input_ids'], full)
    with torch.no_grad():
        expected = published(input_ids=full).pooler_output
        unfilled = published(input_ids=full[:, :4]).pooler_output
        assert torch.allclose(model(tokens), F.normalize(expected), atol=1e-6)
    assert not torch.allclose(F.normalize(expected), F.normalize(unfilled), atol=1e-3)


def test_bert__vectors_are_means_over_tokens_of_single_texts(tmp_path):
    published = write_bert(tmp_path)
    model = TextModel(tmp_path)
    with torch.no_grad():
        vectors = model(model.tokenize(TEXTS))
        for text, vector in zip(TEXTS, vectors, strict=True):
            ids = torch.tensor([model.tokenizer(text)['input_ids']])
            states = published(ids).last_hidden_state[0]
            total = [sum(channel) / len(states) for channel in states.T.tolist()]
            length = sum(value * value for value in total) ** 0.5
            assert vector.tolist() == pytest.approx([v / length for v in total], abs=1e-5)


def test_bert__first_token_where_the_folder_says_so(tmp_path):
    published = write_bert(tmp_path)
    (tmp_path / '1_Pooling').mkdir()
    stated = dict(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    (tmp_path / '1_Pooling' / 'config.json').write_text(json.dumps(stated))
    model = TextModel(tmp_path)
    tokens = model.tokenize(TEXTS)
    with torch.no_grad():
        expected = F.normalize(published(**tokens).last_hidden_state[:, 0])
        assert torch.allclose(model(tokens), expected, atol=1e-6)


def test_mean_of_tokens__padding_counts_nothing():
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    assert mean_of_tokens(states, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 4.0]]


def test_tokenize__a_long_text_is_cut_and_named(tmp_path, warned):
    write_bert(tmp_path, max_tokens=6)
    model = TextModel(tmp_path)
    tokens = model.tokenize(['a long dark line of oil', 'a hole'])
    # The end of the text stays marked.
    assert tokens['input_ids'].tolist()[0] == [2, 3, 7, 5, 6, 31]
    assert warned == [
        f'text "a long dark line of oil" has 8 tokens, cut to the 6 that {tmp_path} can read'
    ]


def test_max_tokens__the_least_of_what_is_stated(tmp_path):
    write_bert(tmp_path, max_tokens=12)
    assert TextModel(tmp_path).max_tokens == 12
    (tmp_path / 'sentence_bert_config.json').write_text('{"max_seq_length": 7}')
    assert TextModel(tmp_path).max_tokens == 7


def test_max_tokens__positions_that_begin_behind_the_padding(tmp_path):
    settings = XLMRobertaConfig(max_position_embeddings=9, **SIZES, **(ENDS | dict(pad_token_id=1)))
    XLMRobertaModel(settings).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, 10**30)
    model = TextModel(tmp_path)
    assert model.max_tokens == 7
    with torch.no_grad():
        assert model(model.tokenize(['a ' * 20])).isfinite().all()


def test_hash_model__changes_with_weights_and_not_with_notes(tmp_path):
    write_bert(tmp_path, seed=0)
    first = hash_model(tmp_path)
    (tmp_path / 'README.md').write_text('notes')
    assert hash_model(tmp_path) == first
    write_bert(tmp_path, seed=1)
    assert hash_model(tmp_path) != first


def test_folder__missing_one_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match='Nothing is downloaded: .*--allow-download'):
        TextModel(tmp_path / 'clip')


def break_weights(folder):
    (folder / 'model.safetensors').write_bytes(b'broken')


def remove_weights(folder):
    (folder / 'model.safetensors').unlink()


def add_dense_layer(folder):
    (folder / 'modules.json').write_text('[{"type": "sentence_transformers.models.Dense"}]')


def ask_for_maximum(folder):
    (folder / '1_Pooling').mkdir()
    (folder / '1_Pooling' / 'config.json').write_text('{"pooling_mode_max_tokens": true}')


def add_layer(folder):
    settings = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(settings | dict(num_hidden_layers=3)))


def write_unknown_kind(folder):
    (folder / 'config.json').write_text('{"model_type": "unheard"}')


def write_image_model(folder):
    settings = ResNetConfig(hidden_sizes=[4] * 4, depths=[1] * 4, embedding_size=4)
    ResNetModel(settings).save_pretrained(folder)


def remove_tokenizer(folder):
    for file in folder.glob('tokenizer*'):
        file.unlink()


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (break_weights, 'cannot be read as a text model'),
        (remove_weights, 'cannot be read as a text model'),
        (add_dense_layer, 'its modules.json has Dense'),
        (ask_for_maximum, 'asks for pooling_mode_max_tokens'),
        (add_layer, 'entries are missing, such as encoder.layer.2'),
        (write_unknown_kind, 'cannot be read as a text model'),
        (write_image_model, 'is no text model: the ResNetModel reads no text'),
        (remove_tokenizer, 'has no tokenizer'),
    ],
    ids=lambda value: value.__name__ if callable(value) else '',
)
def test_folder__spoilt_ones_are_refused(tmp_path, spoil, message):
    write_bert(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        TextModel(tmp_path)


@pytest.fixture
def warned(monkeypatch):
    """Texts that were logged."""
    texts = []
    monkeypatch.setattr(
        'mmext.models.common.text_model.print_log', lambda text, *_, **__: texts.append(text)
    )
    return texts
