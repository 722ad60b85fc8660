"""The command `convert_weights` for DEIMv2: both directions, from files of all kinds."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file
from torch import Tensor

from mmext.models.deim.parts import Detected, part_configs
from mmext.models.deim.variants import VARIANTS
from mmext.models.deim.weights import convert_state_dict
from mmext.tools.convert_weights import deim_config, main
from tests.one_message import one_error
from tests.published_deim import published_state_dict

TABLES = ('decoder.anchors', 'decoder.valid_mask')


@pytest.fixture(scope='module')
def published() -> dict[str, Tensor]:
    return published_state_dict('atto', num_classes=3)


def convert(src: Path, dst: Path) -> int:
    return main([str(src), str(dst), '--source', 'deim'])


def export(src: Path, dst: Path) -> int:
    return main([str(src), str(dst), '--to', 'deim'])


def test_convert_weights__there_and_back(
    published: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw = {name: torch.zeros_like(tensor) for name, tensor in published.items()}
    content = {'model': raw, 'ema': {'module': published, 'updates': 9}, 'last_epoch': 3}
    torch.save(content, tmp_path / 'best.pth')
    assert convert(tmp_path / 'best.pth', tmp_path / 'own.pth') == 0
    report = capsys.readouterr().out
    for line in ('DEIMv2-Atto, 3 classes', 'taken from: ema.module', 'filled in: nothing'):
        assert line in report
    assert 'not needed: decoder.anchors, decoder.valid_mask' in report
    own = torch.load(tmp_path / 'own.pth', weights_only=True)
    assert own['meta']['size'] == 'atto' and own['meta']['num_classes'] == 3

    assert export(tmp_path / 'own.pth', tmp_path / 'back.pth') == 0
    assert f'{len(published)} tensors under the published names' in capsys.readouterr().out
    back = torch.load(tmp_path / 'back.pth', weights_only=True)['model']
    assert back.keys() == published.keys()
    for name, tensor in published.items():
        if name not in TABLES:
            assert torch.equal(back[name], tensor), name


def test_convert_weights__safetensors(
    published: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    once = {id(tensor): (name, tensor) for name, tensor in published.items()}
    save_file(dict(once.values()), tmp_path / 'model.safetensors')
    assert convert(tmp_path / 'model.safetensors', tmp_path / 'own.pth') == 0
    assert 'filled in: decoder.dec_bbox_head.' in capsys.readouterr().out
    own = torch.load(tmp_path / 'own.pth', weights_only=True)['state_dict']
    expected, _ = convert_state_dict(published)
    for name, tensor in expected.items():
        if not name.endswith('num_batches_tracked'):
            assert torch.equal(own[name], tensor), name


def test_convert_weights__config_fits_the_weights(tmp_path: Path) -> None:
    text = deim_config(Detected('hgm', 7)).format(checkpoint=repr('x.pth'))
    base = "_base_ = 'mmext::deim/deimv2_hgm_coco.py'\n"
    assert base in text and 'DEIMv2-HG-M' in text
    (tmp_path / 'own.py').write_text(text.replace(base, ''))
    config = Config.fromfile(tmp_path / 'own.py')
    assert config.model == dict(backbone=dict(checkpoint=None), decoder=dict(num_classes=7))
    assert config.load_from == 'x.pth'


def _write_truncated(path: Path) -> None:
    torch.save({'model': {'weight': torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize('command', [convert, export], ids=['source', 'to'])
@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (lambda path: None, 'do not exist'),
        (_write_truncated, 'truncated'),
        (lambda path: torch.save({'model': {'a': torch.ones(1)}}, path), 'not a DEIMv2 model'),
        (Path.mkdir, 'Is a directory'),
    ],
    ids=['missing', 'truncated', 'other-model', 'folder'],
)
def test_convert_weights__unusable_source(
    command, write, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'source.pth'
    write(path)
    assert command(path, tmp_path / 'out.pth') == 2
    error = one_error(capsys)
    assert message in error and 'source.pth' in error
    assert not (tmp_path / 'out.pth').exists() and not (tmp_path / 'out.py').exists()


def test_convert_weights__target_is_the_source(tmp_path: Path, capsys) -> None:
    torch.save({}, tmp_path / 'x.pth')
    assert export(tmp_path / 'x.pth', tmp_path / 'x.pth') == 2
    assert 'give a new file' in one_error(capsys)


@pytest.mark.parametrize('arguments', [[], ['--source', 'deim', '--to', 'deim']])
def test_convert_weights__one_direction(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as error:
        main(['a.pth', 'b.pth', *arguments])
    assert error.value.code == 2
    assert '--to' in capsys.readouterr().err


@pytest.mark.parametrize('name', VARIANTS)
def test_deim_config__shipped_base_agrees_with_the_table_of_sizes(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / 'best.py'
    path.write_text(deim_config(Detected(name, 7)).format(checkpoint=repr('best.pth')))
    model = Config.fromfile(path).model
    defaults = dict(num_heads=8, reg_max=32)
    for part, expected in part_configs(VARIANTS[name], 7).items():
        stated = {key: model[part].get(key, defaults.get(key)) for key in expected}
        plain = {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in stated.items()}
        assert plain == expected
