"""YOLO text files to COCO: boxes, outlines, layouts, class lists, bad input."""

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from skimage.draw import polygon2mask

from mmext.tools.convert_dataset import main
from tests.datasets.raw_data import EXIF_TURNED, boxes, convert, report, write_image, write_text
from tests.one_message import one_error


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / 'raw'
    write_text(folder / 'data.yaml', 'names: [cat, dog]\nnc: 2\n')
    write_image(folder / 'images' / 'a.jpg', 200, 100)
    write_text(folder / 'labels' / 'a.txt', '1 0.5 0.5 0.25 0.5\n')
    return folder


def test_box__is_centre_and_size_in_shares(raw: Path, tmp_path: Path) -> None:
    (image,) = convert('yolo', raw, tmp_path / 'out').values()
    assert boxes(image) == [('dog', [75, 25, 50, 50])]
    annotation = image['objects'][0][1]
    assert (annotation['area'], annotation['segmentation'], annotation['category_id']) == (
        2500,
        [],
        2,
    )


def test_box__of_an_image_with_exif_rotation_is_in_the_upright_frame(tmp_path: Path) -> None:
    raw = tmp_path / 'raw'
    write_text(raw / 'classes.txt', 'cat\n')
    write_image(raw / 'images' / 'a.jpg', 100, 200, EXIF_TURNED)
    write_text(raw / 'labels' / 'a.txt', '0 0.5 0.5 0.25 0.5\n')
    (image,) = convert('yolo', raw, tmp_path / 'out').values()
    assert (image['width'], image['height']) == (200, 100)
    assert boxes(image) == [('cat', [75, 25, 50, 50])]


def test_outline__mask_box_and_area(raw: Path, tmp_path: Path) -> None:
    points = np.array([[0.1, 0.2], [0.6, 0.15], [0.7, 0.8], [0.3, 0.9], [0.2, 0.5]])
    line = ' '.join(str(value) for value in points.ravel())
    write_text(raw / 'labels' / 'a.txt', f'0 {line}\n')
    (image,) = convert('yolo', raw, tmp_path / 'out').values()
    ((name, annotation),) = image['objects']
    assert name == 'cat'
    assert annotation['bbox'] == pytest.approx([20, 15, 120, 75])
    pixels = coco_mask.decode(coco_mask.frPyObjects(annotation['segmentation'], 100, 200))[..., 0]
    drawn = polygon2mask((100, 200), points[:, ::-1] * (100, 200) - 0.5)
    assert annotation['area'] == pixels.sum() == pytest.approx(drawn.sum(), rel=0.02)
    assert (pixels != drawn).sum() < 150  # of a contour of 340 pixels


@pytest.mark.parametrize('layout', ['images first', 'split first', 'flat'])
def test_layout__labels_and_splits_are_found(layout: str, tmp_path: Path) -> None:
    raw = tmp_path / 'raw'
    write_text(raw / 'classes.txt', 'cat\n')
    folders = {
        'images first': ('images/train', 'labels/train', 'images/valid', 'labels/valid'),
        'split first': ('train/images', 'train/labels', 'valid/images', 'valid/labels'),
        'flat': ('train', 'train', 'valid', 'valid'),
    }[layout]
    for image, label, name in ((*folders[:2], 'a'), (*folders[2:], 'b')):
        write_image(raw / image / f'{name}.png', 20, 10)
        write_text(raw / label / f'{name}.txt', '0 0.5 0.5 1 1\n')
    images = convert('yolo', raw, tmp_path / 'out')
    assert {name: image['split'] for name, image in images.items()} == {'a': 'train', 'b': 'val'}
    assert all(boxes(image) == [('cat', [0, 0, 20, 10])] for image in images.values())
    assert report(tmp_path / 'out') == 'no problems found\n'


@pytest.mark.parametrize(
    'entry',
    ['val: holdout/images', 'val: ../holdout/images', 'val: [holdout/images]', 'val: val.txt'],
)
def test_splits__from_the_yaml_file(entry: str, raw: Path, tmp_path: Path) -> None:
    write_text(raw / 'data.yaml', f'names: {{0: cat, 1: dog}}\ntrain: images\n{entry}\n')
    write_image(raw / 'holdout' / 'images' / 'b.jpg', 20, 10)
    write_text(raw / 'holdout' / 'labels' / 'b.txt', '')
    if entry.endswith('.txt'):
        write_text(raw / 'val.txt', './holdout/images/b.jpg\n')
    images = convert('yolo', raw, tmp_path / 'out')
    assert {name: image['split'] for name, image in images.items()} == {'a': 'train', 'b': 'val'}


def test_splits__names_with_spaces_and_places_that_are_not_there(raw: Path, tmp_path: Path) -> None:
    write_text(raw / 'data.yaml', 'names: [cat, dog]\ntrain: images\nval: val.txt\ntest: nowhere\n')
    write_image(raw / 'holdout' / 'b c.jpg', 20, 10)
    write_text(raw / 'val.txt', './holdout/b c.jpg\n./holdout/lost.jpg\n')
    images = convert('yolo', raw, tmp_path / 'out')
    assert images['b c']['split'] == 'val'
    text = report(tmp_path / 'out')
    assert f'listed image not found\n    {raw / "val.txt"} (./holdout/lost.jpg)' in text
    assert f'split not found, its images are dealt anew\n    {raw / "nowhere"} (test)' in text


def test_no_objects__empty_and_absent_text_files(raw: Path, tmp_path: Path) -> None:
    write_image(raw / 'images' / 'b.jpg', 20, 10)
    write_text(raw / 'labels' / 'b.txt', '\n\n')
    write_image(raw / 'images' / 'c.jpg', 20, 10)
    images = convert('yolo', raw, tmp_path / 'out')
    assert images['b']['objects'] == images['c']['objects'] == []
    assert 'note: 1 x no text file, taken as an image without objects' in report(tmp_path / 'out')
    assert 'warning' not in report(tmp_path / 'out')


@pytest.mark.parametrize(
    ('line', 'message', 'detail'),
    [
        ('1 0.5 0.5 0 0.5', 'zero-size box, object left out', 'line 2: [100.0, 25.0, 100.0, 75.0]'),
        ('1 0.5 0.5 -0.1 0.5', 'zero-size box, object left out', 'line 2'),
        ('1 nan 0.5 0.1 0.5', 'zero-size box, object left out', 'line 2'),
        ('2 0.5 0.5 0.5 0.5', 'unknown class, object left out', 'a.txt (line 2: 2)'),
        ('-1 0.5 0.5 0.5 0.5', 'unknown class, object left out', 'a.txt (line 2: -1)'),
        ('0.5 0.5 0.5 0.5 0.5', 'unknown class, object left out', 'a.txt (line 2: 0.5)'),
        ('dog 0.5 0.5 0.5 0.5', 'line that is not numbers, object left out', "line 2: 'dog 0.5"),
        ('1 0.5 0.5 0.5', 'neither a box nor an outline', 'line 2: 3 numbers behind the class'),
        ('1', 'neither a box nor an outline', 'line 2: 0 numbers'),
        ('1 0.5 0.5 0.5 0.5 0.9', 'neither a box nor an outline', 'line 2: 5 numbers'),
        ('1 0.1 0.1 0.5 0.1 0.9 0.1', 'zero-size box, object left out', 'line 2'),
        ('1 0.1 0.1 0.2 0.2 0.1001 0.1001', 'outline without any pixel, object left out', 'line 2'),
        ('1 120 50 30 20', 'box outside the image, object left out', 'line 2'),
    ],
)
def test_bad_line__is_left_out_and_named(
    line: str, message: str, detail: str, raw: Path, tmp_path: Path
) -> None:
    write_text(raw / 'labels' / 'a.txt', f'1 0.5 0.5 0.25 0.5\n{line}\n')
    (image,) = convert('yolo', raw, tmp_path / 'out').values()
    assert boxes(image) == [('dog', [75, 25, 50, 50])]
    assert f'warning: 1 x {message}' in report(tmp_path / 'out')
    assert detail in report(tmp_path / 'out')


@pytest.mark.parametrize(
    'line', ['0 0.9 0.5 0.4 0.2', '0 0.7 0.4 1.1 0.4 1.1 0.6 0.7 0.6'], ids=['box', 'outline']
)
def test_object_over_the_edge__is_clipped_and_named(line: str, raw: Path, tmp_path: Path) -> None:
    write_text(raw / 'labels' / 'a.txt', line)
    (image,) = convert('yolo', raw, tmp_path / 'out').values()
    ((_, annotation),) = image['objects']
    assert annotation['bbox'] == pytest.approx([140, 40, 60, 20])
    assert max([0, *sum(annotation['segmentation'], [])][::2]) <= 200
    assert '1 x box reaches outside the image, clipped' in report(tmp_path / 'out')


def test_text_file__without_an_image_is_named(raw: Path, tmp_path: Path) -> None:
    write_text(raw / 'labels' / 'lost.txt', '0 0.5 0.5 0.5 0.5\n')
    assert list(convert('yolo', raw, tmp_path / 'out')) == ['a']
    assert f'1 x missing image, text file left out\n    {raw / "labels" / "lost.txt"}' in report(
        tmp_path / 'out'
    )


def test_text_file__that_is_not_text_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / 'labels' / 'a.txt').write_bytes(b'\xff\xfe\x00\x80')
    (image,) = convert('yolo', raw, tmp_path / 'out').values()
    assert image['objects'] == []
    assert '1 x text file is not text, its objects left out' in report(tmp_path / 'out')


@pytest.mark.parametrize(
    ('yaml', 'message'),
    [
        (None, 'names no classes. Write data.yaml'),
        ('names: []', 'names no classes'),
        ('names: {1: cat, 2: dog}', 'not numbered from 0'),
        ('names: {0: cat, x: dog}', 'not numbered from 0'),
        ('names: [cat, dog, cat]', "more than once: ['cat']"),
        ('names: [cat', 'is no YAML file'),
    ],
)
def test_class_names__missing_or_wrong(
    yaml: str | None, message: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / 'data.yaml').unlink()
    if yaml is not None:
        write_text(raw / 'data.yaml', yaml)
    assert main(['yolo', str(raw), str(tmp_path / 'out')]) == 2
    assert message in one_error(capsys)


@pytest.mark.parametrize('entry', ['5', '[5]', '{a: b}'])
def test_split__that_is_no_folder_is_named(
    entry: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(raw / 'data.yaml', f'names: [cat, dog]\nval: {entry}\n')
    assert main(['yolo', str(raw), str(tmp_path / 'out')]) == 2
    assert f'`val` in the YAML file of {raw} is' in one_error(capsys)
