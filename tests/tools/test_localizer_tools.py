"""The tools around single objects: split, explore, augment, summary, submission."""

import csv
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmext.datasets.localization_csv import read_rows, write_rows
from mmext.datasets.report import Report
from mmext.tools import augment_dataset, explore_dataset, model_summary, plot_curves, split_csv
from mmext.tools.single_objects import Submission, draw_single, read_truth
from tests.datasets.raw_data import write_image, write_text
from tests.one_message import one_error
from tests.systems import SYSTEMS

HEADER = 'filename,xmin,ymin,xmax,ymax,class\n'


def read(path: Path) -> list[tuple]:
    return [row[1:] for row in read_rows(path, Report())[0]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos of 40 x 30 and their CSV, one of the photos with the name that a copy would get."""
    names = ('a.png', 'a_aug1.png', 'sub/b.jpg')
    for seed, name in enumerate(names):
        write_image(tmp_path / 'photos' / name, 40, 30, seed=seed)
    rows = [(name, (5.0, 6.0, 25.0, 20.0), 'ab'[i % 2]) for i, name in enumerate(names)]
    write_rows(tmp_path / 'all.csv', rows)
    return tmp_path / 'photos'


def test_split__shares_of_every_class_and_all_rows_once(tmp_path, capsys):
    rows = [(f'{i}.png', (1.0, 2.0, 3.0, 4.0), 'rare' if i < 8 else 'usual') for i in range(80)]
    write_rows(tmp_path / 'all.csv', rows)
    assert split_csv.main([str(tmp_path / 'all.csv'), str(tmp_path / 'out')]) == 0
    parts = {name: read(tmp_path / 'out' / f'{name}.csv') for name in ('train', 'val')}
    counts = {name: Counter(kind for *_, kind in own) for name, own in parts.items()}
    assert counts == {'train': dict(rare=6, usual=54), 'val': dict(rare=2, usual=18)}
    assert sorted(parts['train'] + parts['val']) == sorted(rows)
    assert not (tmp_path / 'out' / 'test.csv').exists()
    assert 'val.csv: 20 images, rare 2, usual 18' in capsys.readouterr().out


def test_split__the_seed_decides(tmp_path):
    rows = [(f'{i}.png', (1.0, 2.0, 3.0, 4.0), 'ab'[i % 2]) for i in range(40)]
    write_rows(tmp_path / 'all.csv', rows)
    parts = []
    for seed, out in ((42, 'one'), (42, 'two'), (7, 'three')):
        split_csv.main([str(tmp_path / 'all.csv'), str(tmp_path / out), '--seed', str(seed)])
        parts.append((tmp_path / out / 'val.csv').read_text())
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize(
    ('name', 'text', 'options', 'words'),
    [
        ('all.csv', HEADER + 'a,1,2,3,4,b\na,1,2,3,5,b\n', [], 'rows are bad'),
        ('all.csv', 'filename\na\n', [], 'no rows with boxes'),
        ('all.csv', HEADER + 'a,1,2,3,4,b\n', ['--fractions', '0.5', '0.6'], 'sum to 1'),
        ('all.csv', HEADER + 'a,1,2,3,4,b\n', ['--fractions', '1'], 'two or three shares'),
        ('train.csv', HEADER + 'a,1,2,3,4,b\n', [], 'written over by its own part'),
    ],
    ids=['bad-rows', 'unlabelled', 'shares', 'one-share', 'onto-itself'],
)
def test_split__mistakes(tmp_path, capsys, name, text, options, words):
    path = write_text(tmp_path / name, text)
    assert split_csv.main([str(path), str(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err
    assert path.read_text() == text


def test_split__skip_bad_counts(tmp_path, capsys):
    path = write_text(tmp_path / 'all.csv', HEADER + 'a,1,2,3,4,b\nc,9,2,3,5,b\nd,1,2,3,4,b\n')
    assert split_csv.main([str(path), str(tmp_path / 'out'), '--skip-bad']) == 0
    said = capsys.readouterr().out
    assert '1 of 3 rows are bad and left out' in said and 'all.csv, line 3' in said


def test_explore__numbers_by_hand(tmp_path, capsys):
    for name, color in (('a.png', (10, 20, 30)), ('b.png', (50, 60, 70))):
        image = np.full((10, 20, 3), color, dtype=np.uint8)
        (tmp_path / 'photos').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'photos' / name), image)
    cv2.imwrite(str(tmp_path / 'photos' / 'grey.png'), np.zeros((10, 20), dtype=np.uint8))
    text = 'a.png,0,0,10,5,x\nb.png,10,5,20,10,y\nc.png,1,2,3,4,x\ngrey.png,5,5,4,6,x\n'
    path = write_text(tmp_path / 'all.csv', HEADER + text)
    page = tmp_path / 'out' / 'page.html'
    arguments = [str(path), '--images', str(tmp_path / 'photos'), '--out', str(page)]
    assert explore_dataset.main(arguments) == 0
    said = capsys.readouterr().out
    assert (
        '4 rows, 2 good images' in said and '20 x 10: 2' in said and 'channels 3 (RGB): 2' in said
    )
    assert 'class x: 1' in said and 'class y: 1' in said
    # cv2 writes BGR.
    assert 'mean of R, G, B: 50.000, 40.000, 30.000' in said
    assert 'std of R, G, B: 20.000, 20.000, 20.000' in said
    assert 'all.csv, line 4' in said and 'all.csv, line 5' in said
    assert 'area            0.250 / 0.250 / 0.250 / 0.250 / 0.250' in said
    content = page.read_text()
    assert content.count('<img ') == 5  # three plots, two samples
    assert 'a.png: x' in content and 'box without area' in content


def test_explore__no_labels_and_no_folder(tmp_path, photos, capsys):
    path = write_text(tmp_path / 'test.csv', 'filename\na.png\n')
    arguments = [str(path), '--out', str(tmp_path / 'page.html'), '--images']
    assert explore_dataset.main([*arguments, str(photos)]) == 0
    assert explore_dataset.main([*arguments, str(tmp_path / 'nowhere')]) == 2
    assert 'is no folder' in one_error(capsys)


def test_augment__originals_and_copies_with_names_of_their_own(tmp_path, photos):
    pipeline = write_text(tmp_path / 'flip.py', "pipeline = [dict(type='RandomFlip', prob=1.0)]\n")
    out = tmp_path / 'more'
    arguments = [str(tmp_path / 'all.csv'), str(out), '--images', str(photos), '--copies', '2']
    assert augment_dataset.main([*arguments, '--pipeline', str(pipeline)]) == 0
    rows = {name: (box, kind) for name, box, kind in read(out / 'all.csv')}
    files = {path.relative_to(out / 'images').as_posix() for path in out.rglob('*.[jp][pn]g')}
    assert set(rows) == files and len(files) == 9
    assert rows['a.png'] == ((5, 6, 25, 20), 'a')
    assert rows['a_aug2.png'] == rows['a_aug3.png'] == ((15, 6, 35, 20), 'a')
    assert rows['a_aug1.png'] == ((5, 6, 25, 20), 'b')  # an original
    assert rows['sub/b_aug1.jpg'] == ((15, 6, 35, 20), 'a')
    flipped = cv2.imread(str(out / 'images' / 'a_aug2.png'))
    np.testing.assert_array_equal(flipped, cv2.imread(str(photos / 'a.png'))[:, ::-1])
    assert (out / 'images' / 'a.png').read_bytes() == (photos / 'a.png').read_bytes()


def test_augment__default_transforms_repeat_with_the_seed(tmp_path, photos):
    texts = []
    for seed, out in ((1, 'one'), (1, 'two'), (2, 'three')):
        options = ['--images', str(photos), '--seed', str(seed)]
        assert augment_dataset.main([str(tmp_path / 'all.csv'), str(tmp_path / out), *options]) == 0
        texts.append((tmp_path / out / 'images' / 'a_aug2.png').read_bytes())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--copies', '0'], 'expected at least 1'),
        (['--pipeline', 'PIPELINE'], 'no `pipeline`'),
        (['--images', 'OUT/images'], 'holds the originals'),
    ],
    ids=['copies', 'pipeline', 'onto-itself'],
)
def test_augment__mistakes(tmp_path, photos, capsys, options, words):
    write_text(tmp_path / 'empty.py', 'other = 1\n')
    out = tmp_path / 'out'
    texts = {'PIPELINE': str(tmp_path / 'empty.py'), 'OUT/images': str(out / 'images')}
    options = ['--images', str(photos), *(texts.get(option, option) for option in options)]
    assert augment_dataset.main([str(tmp_path / 'all.csv'), str(out), *options]) == 2
    assert words in one_error(capsys)


def test_summary__counts_layers_and_parameters(tmp_path, capsys):
    model = SYSTEMS['localizer-votes']
    path = write_text(tmp_path / 'c.py', f"default_scope = 'mmdet'\nmodel = {model!r}\n")
    assert model_summary.main([str(path), '--depth', '1']) == 0
    said = capsys.readouterr().out
    # Two convolutions without bias and two batch norms a block.
    widths = [(3, 8), (8, 16), (16, 16), (16, 16)]
    number = sum(9 * (one + two) * two + 4 * two for one, two in widths)
    assert 'LocalizerCNN' in said and f'| 16     | {number:,}' in said
    assert 'all of them' not in said and 'of them trainable' in said


def instances(boxes: list[list[float]], scores: list[float], labels: list[int]) -> InstanceData:
    return InstanceData(
        bboxes=torch.tensor(boxes).view(-1, 4),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels, dtype=torch.long),
    )


def test_submission__best_object_of_each_photo(tmp_path):
    submission = Submission(('cat', 'dog, large'))
    submission.add(
        instances([[0, 0, 1, 1], [1.234, 2, 30.5, 40]], [0.2, 0.9], [0, 1]), 'p/a.png', 'a.png'
    )
    submission.add(instances([[5, 6, 7, 8]], [0.1], [0]), 'p/sub/b.png', 'sub/b.png')
    submission.write(tmp_path / 'out' / 'submission.csv')
    with (tmp_path / 'out' / 'submission.csv').open(newline='') as file:
        rows = list(csv.reader(file))
    assert rows == [
        ['filename', 'xmin', 'ymin', 'xmax', 'ymax', 'class'],
        ['a.png', '1.23', '2', '30.5', '40', 'dog, large'],
        ['sub/b.png', '5', '6', '7', '8', 'cat'],
    ]
    assert submission.faults() == []


def test_submission__a_photo_without_objects_is_named():
    submission = Submission(('cat',))
    submission.add(instances([], [], []), 'p/a.png', 'a.png')
    assert '1 photos have no row' in submission.faults()[0] and 'a.png' in submission.faults()[0]


def test_truth__joined_by_the_end_of_the_path(tmp_path, photos):
    files = sorted(photos.rglob('*.*'))
    truth = read_truth(tmp_path / 'all.csv', files)
    assert truth == {str(f): ((5, 6, 25, 20), k) for f, k in zip(files, 'aba', strict=True)}


def test_truth__a_photo_without_a_row(tmp_path, photos):
    other = write_image(tmp_path / 'other.png', 4, 4)
    with pytest.raises(ValueError, match='1 of 2 photos, the first is .*other.png'):
        read_truth(tmp_path / 'all.csv', [photos / 'a.png', other])


def test_picture__truth_is_green_and_prediction_red():
    picture = draw_single(
        np.zeros((60, 80, 3), np.uint8),
        instances([[10, 20, 50, 55]], [0.5], [0]),
        ((30.0, 30.0, 70.0, 50.0), 'cat'),
        ('cat',),
    )
    blue, green, red = picture[40, 70].tolist()
    assert green > 150 > max(red, blue)
    blue, green, red = picture[55, 20].tolist()
    assert red > 150 > max(green, blue)


def test_picture__a_wrong_class_is_said_in_red():
    found = instances([[10, 20, 50, 55]], [0.5], [0])
    pictures = [
        draw_single(
            np.zeros((100, 300, 3), np.uint8), found, ((90.0, 60.0, 99.0, 70.0), kind), ('cat',)
        )
        for kind in ('cat', 'dog')
    ]
    red = [(picture == (0, 0, 230)).all(axis=2).sum() for picture in pictures]
    assert red[1] > 1.2 * red[0] > 0


def test_curves__of_the_latest_run(tmp_path, capsys):
    rows = [
        dict(loss=2.0, lr=0.1, step=1),
        {'localizer/IoU': 0.5, 'localizer/IoU_cat': 0.1, 'step': 1},
    ]
    scalars = write_text(
        tmp_path / 'run' / 'vis_data' / 'scalars.json', '\n'.join(map(json.dumps, rows))
    )
    assert plot_curves.main([str(tmp_path)]) == 0
    assert cv2.imread(str(tmp_path / 'curves.png')).std() > 5
    scalars.unlink()
    assert plot_curves.main([str(tmp_path)]) == 2
    assert 'the training wrote no log' in one_error(capsys)
