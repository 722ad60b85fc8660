"""The command `convert_weights`: files in, checkpoint, config and report out."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import Tensor

from mmext.apis import init_model
from mmext.models.yolo.variants import SCALES, Variant, part_configs
from mmext.models.yolo.weights import convert_state_dict
from mmext.tools.convert_weights import main, segment_config
from tests.one_message import one_error
from tests.published_yolo import published_state_dict, write_published

SCRIPT = Path(__file__).parents[2] / 'tools' / 'convert_weights.py'


@pytest.fixture(scope='module')
def published() -> dict[str, Tensor]:
    return published_state_dict('v8', 'n', num_classes=2)


@pytest.fixture
def source(published: dict[str, Tensor], tmp_path: Path) -> Path:
    write_published(tmp_path / 'best.pt', published, names={0: 'dent', 1: 'crack'})
    return tmp_path / 'best.pt'


def convert(src: Path, dst: Path) -> int:
    return main([str(src), str(dst), '--source', 'ultralytics'])


def test_convert_weights__checkpoint_loads_with_weights_only(
    published: dict[str, Tensor], source: Path, tmp_path: Path
) -> None:
    assert convert(source, tmp_path / 'new' / 'best.pth') == 0
    checkpoint = torch.load(tmp_path / 'new' / 'best.pth', weights_only=True)
    half = {name: t.half() if t.is_floating_point() else t for name, t in published.items()}
    expected, _ = convert_state_dict(half)
    assert checkpoint['state_dict'].keys() == expected.keys()
    assert all(torch.equal(checkpoint['state_dict'][name], expected[name]) for name in expected)
    facts = dict(version='v8', size='n', num_classes=2, num_prototypes=32)
    assert facts.items() <= checkpoint['meta'].items()
    assert checkpoint['meta']['dataset_meta'] == dict(classes=('dent', 'crack'))


def test_convert_weights__report_counts_every_tensor(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    convert(source, tmp_path / 'best.pth')
    report = capsys.readouterr().out
    assert 'YOLOv8n-seg, 2 classes, 32 prototypes' in report
    counts = [int(line.split()[1]) for line in report.splitlines() if line.endswith(' tensors')]
    assert len(counts) == 3 and sum(counts) == 416
    assert 'not needed: model.22.dfl.conv.weight' in report
    assert str(tmp_path / 'best.pth') in report and str(tmp_path / 'best.py') in report


def test_convert_weights__names_that_do_not_fit_are_left_out_and_reported(
    published: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_published(tmp_path / 'x.pt', published, names=['dent', 'crack', 'scratch'])
    assert convert(tmp_path / 'x.pt', tmp_path / 'x.pth') == 0
    assert 'dataset_meta' not in torch.load(tmp_path / 'x.pth', weights_only=True)['meta']
    assert 'no class names: the file has 3' in capsys.readouterr().out


@pytest.mark.parametrize('version', ['v8', pytest.param('v11', marks=pytest.mark.slow)])
def test_convert_weights__config_builds_the_model_of_the_checkpoint(
    version: str, tmp_path: Path
) -> None:
    published = published_state_dict(version, 'n', num_classes=2)
    write_published(tmp_path / 'best.pt', published, names=['dent', 'crack'])
    convert(tmp_path / 'best.pt', tmp_path / 'best.pth')
    config = Config.fromfile(tmp_path / 'best.py')
    assert Path(config.load_from) == tmp_path / 'best.pth'
    model = init_model(config, config.load_from)
    for name, tensor in torch.load(tmp_path / 'best.pth', weights_only=True)['state_dict'].items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert model.dataset_meta['classes'] == ('dent', 'crack')


@pytest.mark.parametrize('version', SCALES)
@pytest.mark.parametrize('size', 'nsmlx')
def test_segment_config__shipped_base_agrees_with_the_table_of_sizes(
    version: str, size: str, tmp_path: Path
) -> None:
    variant = Variant(version, size, num_classes=7, num_prototypes=16)
    path = tmp_path / 'best.py'
    path.write_text(segment_config(variant).format(checkpoint=repr('best.pth')))
    model = Config.fromfile(path).model
    for part, expected in part_configs(variant).items():
        shaping = {k: v for k, v in expected.items() if not k.startswith('loss')}
        assert {key: model[part].get(key) for key in shaping} == shaping


def _write_truncated(path: Path) -> None:
    torch.save({'model': {'weight': torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (lambda path: None, 'No such file'),
        (_write_truncated, 'truncated'),
        (lambda path: path.write_text('no weights'), 'not a checkpoint'),
        (lambda path: torch.save({'model': {'a': torch.ones(1)}}, path), 'not a YOLOv8-seg'),
        (Path.mkdir, 'Is a directory'),
    ],
    ids=['missing', 'truncated', 'text', 'other-model', 'folder'],
)
def test_convert_weights__unusable_source_is_one_line_and_exit_code_2(
    write, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'source.pt'
    write(path)
    assert convert(path, tmp_path / 'out.pth') == 2
    error = one_error(capsys)
    assert message in error and 'source.pt' in error
    assert not (tmp_path / 'out.pth').exists() and not (tmp_path / 'out.py').exists()


@pytest.mark.parametrize('name', ['best.py', 'best.pt'], ids=['config', 'source'])
def test_convert_weights__unusable_target(
    name: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = source.read_bytes()
    assert convert(source, tmp_path / name) == 2
    assert 'give a new file that ends in .pth' in capsys.readouterr().err
    assert source.read_bytes() == before


def test_convert_weights__unknown_source_lists_the_known(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        main(['a.pt', 'b.pth', '--source', 'nobody'])
    assert error.value.code == 2
    assert 'ultralytics' in capsys.readouterr().err


def test_script__is_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    absent = str(tmp_path / 'absent.pt')
    arguments = ['convert_weights.py', absent, 'out.pth', '--source', 'ultralytics']
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(SCRIPT), run_name='__main__')
    assert error.value.code == 2
    assert 'absent.pt' in capsys.readouterr().err
