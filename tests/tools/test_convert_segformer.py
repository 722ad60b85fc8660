"""The command `convert_weights` for SegFormer: from all projects, and back to them."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from mmext.models.common.mit_names import Naming
from mmext.models.segformer.weights import (
    Detected,
    expected_shapes,
    part_configs,
    revert_state_dict,
)
from mmext.tools.convert_segformer import segformer_config
from mmext.tools.convert_weights import main
from tests.one_message import one_error

SMALL = (8, (1, 2, 1, 1), 12, 5)
PROJECTS = {'segformer-nvlabs': 'nvlabs', 'segformer-hf': 'hf', 'segformer-mmseg': 'mmseg'}


def own_weights(decoder: str) -> dict[str, Tensor]:
    """Each entry has values of its own."""
    shapes = expected_shapes(Detected(Naming('mmseg', 'backbone.'), decoder, *SMALL))
    state = {}
    for index, (name, shape) in enumerate(shapes.items()):
        is_counter = name.endswith('num_batches_tracked')
        values = torch.arange(shape.numel(), dtype=torch.float32) / (index + 7)
        state[name] = torch.tensor(3) if is_counter else values.reshape(shape)
    return state


@pytest.mark.parametrize(
    'project',
    [
        'segformer-hf',
        pytest.param('segformer-nvlabs', marks=pytest.mark.slow),
        pytest.param('segformer-mmseg', marks=pytest.mark.slow),
    ],
)
def test_convert_weights__there_and_back(
    project: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = own_weights('mmseg' if project == 'segformer-mmseg' else 'paper')
    torch.save({'meta': {}, 'state_dict': own}, tmp_path / 'own.pth')
    # As transformers names it.
    name = 'model.safetensors' if project == 'segformer-hf' else 'given.pth'
    given, again = tmp_path / name, tmp_path / 'again.pth'

    assert main([str(tmp_path / 'own.pth'), str(given), '--to', project]) == 0
    report = capsys.readouterr().out
    assert 'SegFormer of 8 channels and (1, 2, 1, 1) blocks, 5 classes' in report
    assert ('hidden_sizes=[8, 16, 40, 64], decoder_hidden_size=12' in report) == (
        project == 'segformer-hf'
    )

    assert main([str(given), str(again), '--source', project]) == 0
    report = capsys.readouterr().out
    for line in (f'names of {PROJECTS[project]}', 'filled in: nothing', 'not needed: nothing'):
        assert line in report
    found = torch.load(again, weights_only=True)
    assert found['meta']['source'] == project and found['meta']['num_classes'] == 5
    assert list(found['state_dict']) == list(own)
    assert all(torch.equal(found['state_dict'][name], own[name]) for name in own)
    # The config beside it builds the model of these weights.
    cfg = Config.fromfile(again.with_suffix('.py'))
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in own.items()
    }
    assert cfg.load_from == str(again)


@pytest.mark.slow
@pytest.mark.parametrize('wrap', ['state_dict', 'model', 'nothing'])
def test_convert_weights__unwraps(wrap: str, tmp_path: Path) -> None:
    own = own_weights('paper')
    given = {f'module.{n}': t for n, t in revert_state_dict(own, 'nvlabs')[0].items()}
    torch.save(given if wrap == 'nothing' else {wrap: given}, tmp_path / 'nv.pth')
    arguments = [str(tmp_path / 'nv.pth'), str(tmp_path / 'own.pth')]
    assert main([*arguments, '--source', 'segformer-nvlabs']) == 0
    found = torch.load(tmp_path / 'own.pth', weights_only=True)['state_dict']
    assert all(torch.equal(found[name], own[name]) for name in own)


@pytest.mark.parametrize(
    ('source', 'eps', 'dropout_type'),
    [
        ('nvlabs', (1e-5, 1e-6, 1e-6), 'Dropout2d'),
        ('hf', (1e-5, 1e-5, 1e-5), 'Dropout'),
    ],
)
def test_config__has_the_settings_of_the_source(
    source: str, eps: tuple[float, ...], dropout_type: str, tmp_path: Path
) -> None:
    detected = Detected(Naming(source, ''), 'paper', 64, (3, 4, 6, 3), 768, 19)
    text = segformer_config(detected).format(checkpoint=repr('x.pth'))
    assert "_base_ = 'mmext::segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512.py'" in text
    (tmp_path / 'own.py').write_text(text.replace('_base_ = ', 'base = '))
    model = Config.fromfile(tmp_path / 'own.py').model
    assert tuple(model.backbone[f'{group}_eps'] for group in ('patch', 'block', 'stage')) == eps
    assert model.decode_head.dropout_type == dropout_type
    expected = part_configs(detected)['decode_head']
    assert {n: v for n, v in model.decode_head.to_dict().items() if n != '_delete_'} == expected


def test_convert_weights__of_another_project(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(revert_state_dict(own_weights('paper'), 'hf')[0], tmp_path / 'hf.pth')
    arguments = [str(tmp_path / 'hf.pth'), str(tmp_path / 'own.pth')]
    assert main([*arguments, '--source', 'segformer-nvlabs']) == 2
    assert 'use --source segformer-hf' in one_error(capsys)
    assert not (tmp_path / 'own.pth').exists()
    torch.save(own_weights('mmseg'), tmp_path / 'mmseg.pth')
    arguments = [str(tmp_path / 'mmseg.pth'), str(tmp_path / 'nv.pth')]
    assert main([*arguments, '--to', 'segformer-nvlabs']) == 2
    assert 'Export to mmseg, or train the other decoder' in one_error(capsys)


def test_convert_weights__no_safetensors_of_more_than_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save(own_weights('paper'), tmp_path / 'own.pth')
    wanted = tmp_path / 'given' / 'nv.safetensors'
    arguments = [str(tmp_path / 'own.pth'), str(wanted)]
    assert main([*arguments, '--to', 'segformer-nvlabs']) == 2
    assert 'here under state_dict. Give a name that ends in .pth' in one_error(capsys)
    assert not wanted.parent.exists()
    # The way here makes a checkpoint with metainfo, and a config that names it.
    assert main([*arguments, '--source', 'segformer-nvlabs']) == 2
    assert 'give a new file that ends in .pth' in one_error(capsys)
