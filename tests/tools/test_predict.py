"""The predict tool: what it writes, what it prints, and how it answers mistakes."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmext.apis import init_model
from mmext.tools import predict
from tests.tiny import CLASSES, IMAGE_SIZE, make_tiny_coco, tiny_segment_config


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and checkpoint of an untrained model, whose scores differ from place to place."""
    root = tmp_path_factory.mktemp('model')
    cfg = tiny_segment_config(root, root / 'work')
    cfg.dump(root / 'config.py')
    torch.manual_seed(0)
    network = init_model(cfg)
    # The boxes start small.
    network.init_weights()
    for branch in network.bbox_head.cls_branches:
        torch.nn.init.normal_(branch[-1].weight, std=0.5)
        torch.nn.init.zeros_(branch[-1].bias)
    torch.save({'state_dict': network.state_dict()}, root / 'model.pth')
    return root / 'config.py', root / 'model.pth'


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photos whose names differ by folder or by suffix only; `b/x.png` is larger."""
    make_tiny_coco(tmp_path, 1)
    image = cv2.imread(str(tmp_path / 'images' / 'train_0.png'))
    folder = tmp_path / 'photos'
    for name in ('a/x.jpg', 'a/x.png', 'b/x.png', 'b/y.tif'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copies = 3 if name == 'b/x.png' else 1
        cv2.imwrite(str(folder / name), np.tile(image, (1, copies, 1)))
    return folder


def run(model: tuple[Path, Path], *arguments: object) -> int:
    """Runs the tool with a threshold that an untrained model passes."""
    return predict.main([*map(str, [*model, *arguments, '--score-thr', '0.02', '--device', 'cpu'])])


def test_main__pictures_and_results_of_equal_names_stay_apart(
    model: tuple[Path, Path], photos: Path, capsys: pytest.CaptureFixture
) -> None:
    out = photos.parent / 'out'
    assert run(model, photos, '--out', out, '--batch-size', 3) == 0
    names = ['a/x.jpg', 'a/x.png', 'b/x.png', 'b/y.tif']
    for name in names:
        photo, picture = cv2.imread(str(photos / name)), cv2.imread(str(out / name))
        assert picture.shape == photo.shape
        assert (picture != photo).any()
    # What pycocotools reads from the two files is what was found.
    truth = COCO(str(out / 'results.images.json'))
    found = truth.loadRes(str(out / 'results.json'))
    assert [image['file_name'] for image in truth.dataset['images']] == names
    assert [category['name'] for category in truth.dataset['categories']] == list(CLASSES)
    assert set(found.getImgIds()) == {1, 2, 3, 4}
    for entry in found.dataset['annotations']:
        image = truth.imgs[entry['image_id']]
        assert entry['file_name'] == image['file_name']
        assert entry['category_name'] == truth.cats[entry['category_id']]['name']
        x, y, width, height = entry['bbox']
        assert 0 <= x <= x + width <= image['width'] + 1e-3
        assert 0 <= y <= y + height <= image['height'] + 1e-3
        assert 0.02 <= entry['score'] <= 1
        mask = coco_mask.decode(entry['segmentation'])
        assert mask.shape == (image['height'], image['width'])
        # A mask is empty outside its box, but for the rounding of its edges.
        left, top, right, bottom = (
            max(int(v) - 1, 0) for v in (x, y, x + width + 2, y + height + 2)
        )
        assert mask.sum() == mask[top:bottom, left:right].sum()
    printed = capsys.readouterr().out
    counts = [entry['category_name'] for entry in found.dataset['annotations']]
    words = [line.split() for line in printed.splitlines()]
    assert ['photos', '4'] in words and ['objects', str(len(counts))] in words
    assert all([name, str(counts.count(name))] in words for name in CLASSES)
    assert [line[0] for line in words if len(line) == 3][-4:] == ['pre', 'net', 'post', 'total']


def test_main__tiles_of_one_size_with_the_photo_change_nothing(
    model: tuple[Path, Path], photos: Path
) -> None:
    texts = []
    for options in ([], ['--tile', IMAGE_SIZE, '--whole']):
        file = photos.parent / 'one.json'
        arguments = [photos / 'a', '--no-pictures', '--json', file, *options]
        assert run(model, *arguments) == 0
        texts.append(json.loads(file.read_text()))
    assert texts[0] == texts[1] != []


def test_main__tiles_see_a_wide_photo_as_its_parts(model: tuple[Path, Path], photos: Path) -> None:
    out = photos.parent / 'out'
    options = ['--tile', IMAGE_SIZE, '--overlap', 0, '--out', out]
    # An untrained model is surest of its largest boxes, which reach over the tiles' edges.
    options += ['--cfg-options', 'model.test_cfg.max_per_img=200']
    assert run(model, photos / 'b' / 'x.png', photos / 'a' / 'x.png', *options) == 0
    results = json.loads((out / 'results.json').read_text())
    # The wide photo shows the other one three times: each part has its objects, at its place.
    wide, narrow = ([entry for entry in results if entry['image_id'] == i] for i in (1, 2))
    assert narrow
    boxes = {tuple(round(value, 1) for value in entry['bbox']) for entry in wide}
    inner = [e for e in narrow if e['bbox'][0] > 2 and sum(e['bbox'][::2]) < IMAGE_SIZE - 2]
    assert inner
    for entry in inner:
        x, *others = entry['bbox']
        for shift in (0, IMAGE_SIZE, 2 * IMAGE_SIZE):
            assert (round(x + shift, 1), *(round(v, 1) for v in others)) in boxes


def with_views(config: Path, folder: Path) -> Path:
    """The config with test-time augmentation: the photo and its mirror image."""
    cfg = Config.fromfile(config)
    cfg.tta_model = dict(type='mmext.InstanceTTAModel', iou_threshold=0.6, max_per_img=20)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip')
    views = [
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='Resize', scale=(IMAGE_SIZE, IMAGE_SIZE))],
        [dict(type='PackDetInputs', meta_keys=(*keys, 'flip_direction'))],
    ]
    cfg.tta_pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='TestTimeAug', transforms=views),
    ]
    cfg.dump(folder / 'views.py')
    return folder / 'views.py'


def test_main__views_of_the_photo_and_of_its_only_tile(
    model: tuple[Path, Path], photos: Path
) -> None:
    augmented = (with_views(model[0], photos.parent), model[1])
    found = []
    for files, options in (
        (model, []),
        (augmented, ['--tta']),
        (augmented, ['--tta', '--tile', IMAGE_SIZE]),
    ):
        file = photos.parent / 'one.json'
        arguments = [photos / 'a' / 'x.png', '--no-pictures', '--json', file, *options]
        assert run(files, *arguments) == 0
        found.append(json.loads(file.read_text()))
    plain, views, tile = found
    assert views == tile != []
    # What the mean is, tests/apis/test_inferencer.py shows with a model that finds something.
    assert [entry['score'] for entry in views] != [entry['score'] for entry in plain]
    for entry in views:
        assert coco_mask.decode(entry['segmentation']).shape == (IMAGE_SIZE, IMAGE_SIZE)


def test_main__bad_photos_are_listed_at_the_end(
    model: tuple[Path, Path], photos: Path, capsys: pytest.CaptureFixture
) -> None:
    data = (photos / 'a/x.png').read_bytes()
    (photos / 'a/cut.png').write_bytes(data[: len(data) // 2])
    (photos / 'b/text.jpg').write_text('not an image')
    out = photos.parent / 'out'
    assert run(model, photos, '--out', out) == 2
    printed = capsys.readouterr()
    assert '2 of 6 photos could not be predicted' in printed.err
    assert str(photos / 'a/cut.png') in printed.err and str(photos / 'b/text.jpg') in printed.err
    assert 'Traceback' not in printed.err
    images = json.loads((out / 'results.images.json').read_text())['images']
    assert [image['file_name'] for image in images] == ['a/x.jpg', 'a/x.png', 'b/x.png', 'b/y.tif']
    assert len(list(out.rglob('*.*'))) == 4 + 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{photos}', '--tile', '0'], 'tile: got 0'),
        (['{photos}', '--tile', '64', '--overlap', '1'], 'overlap: got 1.0'),
        (['{photos}', '--tta'], 'the config has no tta_model and no tta_pipeline'),
        (['{photos}', '--whole'], '--overlap and --whole need --tile'),
        (['{photos}', '--batch-size', '0'], 'batch_size: got 0'),
        (['{photos}/empty'], 'has no images'),
        (['{photos}/gone.png'], 'does not exist'),
        (['{photos}', '--out', '{photos}'], 'a picture could overwrite it'),
        (['{photos}', '--device', 'abacus'], "--device is 'abacus'"),
    ],
    ids=['tile', 'overlap', 'no tta', 'whole', 'batch', 'empty folder', 'missing', 'out', 'device'],
)
def test_main__a_mistake_is_one_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    model: tuple[Path, Path],
    photos: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    (photos / 'empty').mkdir()
    before = sorted(photos.rglob('*'))
    given = [argument.format(photos=photos) for argument in arguments]
    assert predict.main([*map(str, model), *given]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert 'Traceback' not in errors
    assert sorted(photos.rglob('*')) == before


@pytest.mark.parametrize('missing', [0, 1], ids=['config', 'checkpoint'])
def test_main__missing_model_files(
    missing: int, model: tuple[Path, Path], photos: Path, capsys: pytest.CaptureFixture
) -> None:
    files = list(model)
    files[missing] = photos / f'gone{files[missing].suffix}'
    assert predict.main([*map(str, files), str(photos)]) == 2
    assert f'{files[missing]} does not exist' in capsys.readouterr().err


def test_main__options_of_the_config(
    model: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / 'results.json'
    options = ['--cfg-options', 'model.test_cfg.max_per_img=2']
    assert run(model, photos / 'a/x.png', '--no-pictures', '--json', file, *options) == 0
    assert len(json.loads(file.read_text())) == 2
