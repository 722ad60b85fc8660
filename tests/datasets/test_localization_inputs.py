"""Photos of every kind on the way of the localizer: grey, with alpha, with a palette, of one bit and of sixteen."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from PIL import Image

from mmext.apis import InstanceInferencer
from mmext.datasets import LocalizationDataset
from mmext.datasets.exploration import explore
from mmext.datasets.localization_csv import read_rows
from mmext.datasets.report import Report
from mmext.tools import augment_dataset, convert_dataset
from tests.datasets.raw_data import write_image, write_text
from tests.systems import SYSTEMS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'localizer'
RGB = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
GREY = RGB[..., 0]
# Name -> what is stored, what a network sees (RGB), the channels that are told.
KINDS: dict[str, tuple[Image.Image, np.ndarray, str]] = {
    'colour': (Image.fromarray(RGB), RGB, '3 (RGB)'),
    'grey': (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, 2), '1 (L)'),
    'alpha': (Image.fromarray(np.dstack([RGB, GREY])), RGB, '4 (RGBA)'),
    'grey-alpha': (
        Image.fromarray(np.dstack([GREY, GREY[::-1]]), 'LA'),
        np.repeat(GREY[..., None], 3, 2),
        '2 (LA)',
    ),
    'palette': (
        Image.fromarray(GREY // 64 * 64).convert('P'),
        np.repeat(GREY[..., None] // 64 * 64, 3, 2),
        '1 (P)',
    ),
    'one-bit': (
        Image.fromarray(GREY > 127),
        np.repeat((GREY > 127)[..., None], 3, 2) * np.uint8(255),
        '1 (1)',
    ),
    '16-bit': (
        Image.fromarray(GREY.astype(np.uint16) * 257),
        np.repeat(GREY[..., None], 3, 2),
        '1 (I;16)',
    ),
}
every_kind = pytest.mark.parametrize('kind', KINDS)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('kinds')
    for kind, (image, _, _) in KINDS.items():
        image.save(root / f'{kind}.png')
    return root


def write_csv(path: Path, kind: str) -> Path:
    return write_text(path, f'filename,xmin,ymin,xmax,ymax,class\n{kind}.png,20,15,60,45,face\n')


@every_kind
@pytest.mark.parametrize('config', ['votes_csp-n', 'plain_cnn'])
def test_training__a_sample_of_three_channels_with_its_box(folder, tmp_path, kind, config):
    cfg = Config.fromfile(CONFIGS / f'localizer-{config}_1xb32-37e_face-mask.py')
    path = write_csv(tmp_path / 'train.csv', kind)
    with DefaultScope.overwrite_default_scope('mmdet'):
        pipeline = Compose(cfg.train_dataloader.dataset.pipeline)
        dataset = LocalizationDataset(str(path), data_prefix=dict(img=str(folder)))
        sample = pipeline(dataset.get_data_info(0))
    inputs, truth = sample['inputs'], sample['data_samples'].gt_instances
    assert inputs.shape == (3, 256, 256) and inputs.dtype == torch.uint8
    assert truth.labels.tolist() == [0] and truth.bboxes.shape == (1, 4)
    sides = truth.bboxes.tensor[0, 2:] - truth.bboxes.tensor[0, :2]
    assert (sides > 256 / 2 * 0.5).all() and (sides < 256 / 2 * 1.6).all()


@every_kind
def test_exploration__channels_mean_and_deviation(folder, tmp_path, kind):
    facts = explore(write_csv(tmp_path / 'train.csv', kind), folder)
    _, seen, mode = KINDS[kind]
    assert not facts.report.num_problems and dict(facts.modes) == {mode: 1}
    np.testing.assert_allclose(facts.mean, seen.mean(axis=(0, 1)), rtol=1e-9)
    np.testing.assert_allclose(facts.std, seen.std(axis=(0, 1)), rtol=1e-9)


@every_kind
def test_prediction__as_of_the_pixels_themselves(folder, kind):
    torch.manual_seed(0)
    model = copy.deepcopy(SYSTEMS['localizer-votes'])
    loader = Config.fromfile(
        CONFIGS / 'localizer-votes_csp-n_1xb32-37e_face-mask.py'
    ).test_dataloader
    for step in loader.dataset.pipeline:
        if step.type == 'mmdet.Resize':
            step.scale = (64, 64)
    cfg = Config(dict(default_scope='mmdet', model=model, test_dataloader=loader))
    find = InstanceInferencer(cfg, score_thr=0.0)
    found, expected = find([folder / f'{kind}.png', KINDS[kind][1][..., ::-1].copy()])
    assert (found.image == expected.image).all()
    for key in ('bboxes', 'labels', 'scores'):
        own = [prediction.sample.pred_instances[key] for prediction in (found, expected)]
        torch.testing.assert_close(*own)
    assert len(found.sample.pred_instances) == 1


@every_kind
def test_augmentation__copies_of_every_kind(folder, tmp_path, kind):
    path = write_csv(tmp_path / 'train.csv', kind)
    flip = write_text(tmp_path / 'flip.py', "pipeline = [dict(type='RandomFlip', prob=1.0)]\n")
    options = ['--images', str(folder), '--copies', '1', '--pipeline', str(flip)]
    assert augment_dataset.main([str(path), str(tmp_path / 'out'), *options]) == 0
    rows, _ = read_rows(tmp_path / 'out' / 'train.csv', Report())
    assert [row.box for row in rows] == [(20, 15, 60, 45), (20, 15, 60, 45)]
    copied = cv2.imread(str(tmp_path / 'out' / 'images' / rows[1].filename), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(copied[..., ::-1], KINDS[kind][1][:, ::-1])


def test_voc__images_with_one_object_as_csv(tmp_path):
    raw = tmp_path / 'raw'
    # From 1 on, the last pixel included, as VOC counts.
    box = '<xmin>11</xmin><ymin>6</ymin><xmax>20</xmax><ymax>25</ymax>'
    for name, kinds in dict(a=['cat'], b=[], c=['cat', 'dog']).items():
        write_image(raw / 'JPEGImages' / f'{name}.jpg', 40, 30)
        objects = [f'<object><name>{kind}</name><bndbox>{box}</bndbox></object>' for kind in kinds]
        text = f'<annotation><filename>{name}.jpg</filename>{"".join(objects)}</annotation>'
        write_text(raw / 'Annotations' / f'{name}.xml', text)
    options = ['--csv', '--fractions', '1', '0', '0']
    assert convert_dataset.main(['voc', str(raw), str(tmp_path / 'out'), *options]) == 0
    dataset = LocalizationDataset(
        str(tmp_path / 'out' / 'train.csv'), data_prefix=dict(img=str(tmp_path / 'out' / 'images'))
    )
    assert len(dataset) == 1 and dataset.metainfo['classes'] == ('cat',)
    assert dataset.get_data_info(0)['instances'][0]['bbox'] == [10, 5, 20, 25]
