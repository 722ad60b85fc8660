"""The converter of the faces, and --csv, which any format has."""

import json
import os
from pathlib import Path

import pytest

from mmext.datasets.localization_csv import read_rows
from mmext.datasets.report import Report
from mmext.tools.convert_dataset import main
from tests.datasets.raw_data import convert, write_image, write_text
from tests.one_message import one_error

CATEGORIES = [
    dict(id=0, name='wrong', supercategory='N/A'),
    dict(id=1, name='with', supercategory='N/A'),
]


def write_split(raw: Path, split: str, objects: list[list[int]], categories: list[dict]) -> None:
    """Images of 40 x 30 with a box for each class id that is listed for them."""
    images, annotations = [], []
    for index, classes in enumerate(objects):
        name = f'{split}{index}.jpg'
        write_image(raw / f'{split}2017' / name, 40, 30)
        images.append(dict(id=index, file_name=name, width=40, height=30))
        for category in classes:
            box = [4 + len(annotations), 5, 10, 20]
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=index,
                    category_id=category,
                    bbox=box,
                    area=200,
                    iscrowd=0,
                    segmentation=[],
                )
            )
    content = dict(images=images, annotations=annotations, categories=categories)
    write_text(raw / 'annotations' / f'custom_{split}.json', json.dumps(content))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_split(tmp_path / 'raw', 'train', [[1], [], [0, 1], [0]], CATEGORIES)
    write_split(tmp_path / 'raw', 'val', [[1, 1], [1]], CATEGORIES)
    return tmp_path / 'raw'


def test_coco__all_images_and_boxes(raw, tmp_path):
    found = convert('face_mask', raw, tmp_path / 'out')
    train = {name: own for name, own in found.items() if name.startswith('train')}
    assert {name: [kind for kind, _ in own['objects']] for name, own in train.items()} == {
        'train0': ['with'],
        'train1': [],
        'train2': ['wrong', 'with'],
        'train3': ['wrong'],
    }
    assert train['train2']['objects'][1][1]['bbox'] == [6, 5, 10, 20]


def test_csv__the_images_with_one_face(raw, tmp_path, capsys):
    out = tmp_path / 'out'
    write_text(out / 'test.csv', 'of an earlier conversion')
    assert main(['face_mask', str(raw), str(out), '--csv']) == 0
    rows, _ = read_rows(out / 'train.csv', Report())
    assert [(row.filename, row.box, row.category) for row in rows] == [
        ('train/train0.jpg', (4, 5, 14, 25), 'with'),
        ('train/train3.jpg', (7, 5, 17, 25), 'wrong'),
    ]
    assert (out / 'val.csv').read_text().splitlines()[1:] == ['val/val1.jpg,6,5,16,25,with']
    assert sorted(path.name for path in out.iterdir()) == [
        'conversion_report.txt',
        'images',
        'train.csv',
        'val.csv',
    ]
    assert len(list((out / 'images').rglob('*.jpg'))) == 3
    assert 'note: 3 x image that has not exactly one object, left out' in capsys.readouterr().out


def test_csv__no_image_with_one_object(tmp_path, capsys):
    for split in ('train', 'val'):
        write_split(tmp_path / 'raw', split, [[0, 1]], CATEGORIES)
    assert main(['face_mask', str(tmp_path / 'raw'), str(tmp_path / 'out'), '--csv']) == 2
    assert 'No usable image was found' in capsys.readouterr().err


def test_categories_that_differ_are_refused(tmp_path, capsys):
    write_split(tmp_path / 'raw', 'train', [[0]], CATEGORIES)
    write_split(tmp_path / 'raw', 'val', [[0]], CATEGORIES[:1])
    assert main(['face_mask', str(tmp_path / 'raw'), str(tmp_path / 'out')]) == 2
    assert 'have different categories' in one_error(capsys)


@pytest.mark.data
def test_real_data__264_and_65_images_have_one_face(tmp_path):
    raw = Path(os.environ['MMEXT_DATA']) / 'face_mask'
    assert main(['face_mask', str(raw), str(tmp_path / 'out'), '--csv']) == 0
    counts = [len(read_rows(tmp_path / 'out' / f'{s}.csv', Report())[0]) for s in ('train', 'val')]
    assert counts == [264, 65]
