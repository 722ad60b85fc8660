"""The predict tool with semantic models: what it writes and prints, and how it answers mistakes."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mmext.apis import Segmentation, SemanticSegmenter, init_model
from mmext.apis.cutout_jobs import Job
from mmext.tools import predict, predict_semantic
from tests.apis.patch_network import CLASSES, patch_config


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and checkpoint of an untrained model."""
    root = tmp_path_factory.mktemp('model')
    cfg = patch_config()
    cfg.dump(root / 'config.py')
    torch.manual_seed(0)
    network = init_model(cfg)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.save({'state_dict': network.state_dict()}, root / 'model.pth')
    return root / 'config.py', root / 'model.pth'


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, two of which differ by folder or by suffix only."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(('a/x.png', 'a/x.tif', 'b/x.png')):
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (40 + 9 * index, 50)
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))
    return tmp_path / 'photos'


def run(model: tuple[Path, Path], *arguments: object) -> int:
    return predict.main([*map(str, [*model, *arguments, '--device', 'cpu'])])


def test_main__overlays_class_maps_and_shares(
    model: tuple[Path, Path], photos: Path, capsys: pytest.CaptureFixture
) -> None:
    out = photos.parent / 'out'
    assert run(model, photos, '--out', out, '--batch-size', 2) == 0
    expected = list(SemanticSegmenter(*map(str, model))(photos))
    names = ['a/x.png.png', 'a/x.tif.png', 'b/x.png']
    content = json.loads((out / 'results.json').read_text())
    assert content['classes'] == list(CLASSES) and content['failures'] == []
    with (out / 'results.csv').open(encoding='utf-8') as file:
        table = list(csv.DictReader(file))
    entries = zip(content['photos'], table, names, expected, strict=True)
    for entry, row, name, result in entries:
        with Image.open(out / 'classes' / name) as picture:
            assert picture.mode == 'P'
            assert (np.asarray(picture) == result.class_map).all()
        overlay = cv2.imread(str(out / 'overlay' / name))
        assert overlay.shape == (*result.overlay().shape[:2], 3)
        assert entry['file_name'] == row['filename']
        assert (entry['height'], entry['width']) == result.class_map.shape
        assert entry['forward_ms'] == entry['ms']['net'] > 0
        for label, class_name in enumerate(CLASSES):
            share = (result.class_map == label).mean()
            assert entry['shares'].get(class_name, 0) == pytest.approx(share)
            assert float(row[class_name]) == pytest.approx(share, abs=1e-6)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['photos', '3'] in printed
    times = [line for line in printed if line and line[0] in ('pre', 'net', 'post', 'total')]
    assert len(times) == 4 and all(0 < float(p50) <= float(p95) for _, p50, p95 in times)


def test_main__windows_presets_and_lines(model: tuple[Path, Path], photos: Path) -> None:
    out = photos.parent / 'out'
    options = ['--tile', 24, '--overlap', 0.25, '--preset', 'mmseg', '--style', 'outline']
    table = photos.parent / 'shares.csv'
    assert run(model, photos / 'b', '--out', out, *options, '--csv', table) == 0
    assert len(table.read_text(encoding='utf-8').splitlines()) == 2
    assert (out / 'overlay' / 'x.png').is_file()
    file = photos.parent / 'one' / 'one.json'
    assert run(model, photos / 'b', '--no-pictures', '--json', file) == 0
    assert sorted(path.name for path in file.parent.iterdir()) == ['one.csv', 'one.json']


def test_main__bad_photos_are_listed_at_the_end(
    model: tuple[Path, Path], photos: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / 'b' / 'text.jpg').write_text('not an image')
    # The network's first kernel is higher.
    cv2.imwrite(str(photos / 'a' / 'thin.png'), np.zeros((1, 90, 3), np.uint8))
    out = photos.parent / 'out'
    assert run(model, photos, '--out', out, '--batch-size', 5) == 2
    errors = capsys.readouterr().err
    assert '2 of 5 photos could not be predicted' in errors and 'Traceback' not in errors
    assert str(photos / 'b' / 'text.jpg') in errors
    assert f'{photos / "a" / "thin.png"}: the network failed on an input of' in errors
    assert len(list((out / 'overlay').rglob('*.png'))) == 3
    content = json.loads((out / 'results.json').read_text())
    assert (len(content['photos']), len(content['failures'])) == (3, 2)


def test_write_pictures__files_appear_when_they_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    save = Image.Image.save

    def record(image: Image.Image, path: Path, *args: object, **kwargs: object) -> None:
        written.append(path.name)
        save(image, path, *args, **kwargs)

    monkeypatch.setattr(Image.Image, 'save', record)
    targets = {name: tmp_path / name / 'x.png' for name in ('overlay', 'classes')}
    result = Segmentation(
        class_map=np.zeros((4, 5), np.uint8),
        classes=('a', 'b'),
        palette=np.array([[1, 2, 3], [4, 5, 6]], np.uint8),
        image=np.zeros((4, 5, 3), np.uint8),
    )
    predict_semantic.write_pictures(result, Job(tmp_path / 'x.jpg', targets), 'fill')
    assert written == ['.x.png.part'] * 2
    assert sorted(tmp_path.rglob('*.p*')) == sorted(targets.values())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{photos}', '--preset', 'hg'], "preset: got 'hg', expected one of hf, mmseg, nvlabs"),
        (['{photos}', '--tta'], 'tools/test.py --tta scores with the views of a config'),
        (['{photos}', '--json', '{photos}/a.csv'], 'a.csv: got the name of the CSV'),
        (['{photos}', '--json', '{photos}/t', '--csv', '{photos}/b/../t'], 't: got the name of'),
        (
            ['{photos}', '--score-thr', '0.1', '--tile', '64', '--whole'],
            'got --score-thr, --whole,',
        ),
        (['{photos}', '--tile', '64', '--overlap', '1'], 'overlap: got 1.0'),
        (['{photos}/gone'], 'does not exist'),
        (['{photos}', '--out', '{photos}'], 'a picture could overwrite it'),
    ],
    ids=['preset', 'tta', 'json', 'one file', 'objects', 'overlap', 'missing', 'out'],
)
def test_main__a_mistake_is_one_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    model: tuple[Path, Path],
    photos: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    before = sorted(photos.rglob('*'))
    given = [argument.format(photos=photos) for argument in arguments]
    assert run(model, *given) == 2
    errors = capsys.readouterr().err
    assert message in errors and 'Traceback' not in errors
    assert sorted(photos.rglob('*')) == before
