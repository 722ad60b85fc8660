"""Folders of masks to COCO: by value, by class folder, by instance; bad input."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmext.tools.convert_dataset import main
from tests.datasets.raw_data import convert, report, write_image, write_mask, write_text
from tests.one_message import one_error


def _mask(*blobs: tuple[slice, slice, int], dtype: type = np.uint8) -> np.ndarray:
    mask = np.zeros((30, 40), dtype)
    for rows, columns, value in blobs:
        mask[rows, columns] = value
    return mask


ONE = (slice(2, 8), slice(2, 10))
TWO = (slice(12, 20), slice(20, 30))
THREE = (slice(22, 28), slice(2, 8))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / 'raw'
    write_image(folder / 'images' / 'a.jpg', 40, 30)
    write_text(folder / 'classes.txt', 'dent\nscratch\n')
    write_mask(folder / 'masks' / 'a.png', _mask((*ONE, 1), (*TWO, 2), (*THREE, 2)))
    return folder


def _objects(image: dict) -> list[tuple[str, np.ndarray]]:
    return [(name, coco_mask.decode(a['segmentation'])) for name, a in image['objects']]


def _assert_objects(image: dict, expected: list[tuple[str, np.ndarray]]) -> None:
    found = _objects(image)
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, mask), (_, wanted) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, wanted)


def _masks_option(raw: Path, out: Path, values: str) -> dict:
    return convert('masks', raw, out, '--values', values, '--fractions', '1', '0', '0')


def test_class_values__components_of_each_class(raw: Path, tmp_path: Path) -> None:
    (image,) = convert('masks', raw, tmp_path / 'out').values()
    expected = [('dent', _mask((*ONE, 1)))]
    expected += [('scratch', _mask((*TWO, 1))), ('scratch', _mask((*THREE, 1)))]
    _assert_objects(image, expected)
    assert [a['category_id'] for _, a in image['objects']] == [1, 2, 2]
    assert report(tmp_path / 'out') == 'no problems found\n'


def test_class_values__background_line_names_value_0(raw: Path, tmp_path: Path) -> None:
    write_text(raw / 'classes.txt', 'background\ndent\nscratch\n')
    (image,) = convert('masks', raw, tmp_path / 'out').values()
    assert [name for name, _ in image['objects']] == ['dent', 'scratch', 'scratch']


def test_class_values__palette_image(raw: Path, tmp_path: Path) -> None:
    palette = Image.fromarray(_mask((*ONE, 2)), 'P')
    palette.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    palette.save(raw / 'masks' / 'a.png')
    (image,) = convert('masks', raw, tmp_path / 'out').values()
    _assert_objects(image, [('scratch', _mask((*ONE, 1)))])


def test_class_values__not_labelled_pixels_and_specks_are_noted(raw: Path, tmp_path: Path) -> None:
    speck = (slice(28, 30), slice(36, 40), 1)
    write_mask(raw / 'masks' / 'a.png', _mask((*ONE, 1), (*TWO, 255), speck))
    (image,) = convert('masks', raw, tmp_path / 'out').values()
    assert [name for name, _ in image['objects']] == ['dent']
    assert 'note: 1 x pixels that are not labelled (255)' in report(tmp_path / 'out')
    assert 'a.png (1 below 9 pixels)' in report(tmp_path / 'out')


@pytest.mark.parametrize('foreground', [1, 38, 255])
def test_binary__class_folders(foreground: int, tmp_path: Path) -> None:
    raw = tmp_path / 'raw'
    write_image(raw / 'images' / 'train' / 'a.jpg', 40, 30)
    write_image(raw / 'images' / 'val' / 'b.jpg', 40, 30)
    write_mask(raw / 'masks' / 'dent' / 'train' / 'a.png', _mask((*ONE, foreground)))
    write_mask(raw / 'masks' / 'crack' / 'train' / 'a.png', _mask((*TWO, foreground)))
    write_mask(raw / 'masks' / 'crack' / 'val' / 'b.png', _mask())
    images = _masks_option(raw, tmp_path / 'out', 'binary')
    _assert_objects(images['a'], [('crack', _mask((*TWO, 1))), ('dent', _mask((*ONE, 1)))])
    assert images['b']['objects'] == []
    assert (images['a']['split'], images['b']['split']) == ('train', 'val')


def test_binary__soft_edges_are_cut_at_half(raw: Path, tmp_path: Path) -> None:
    write_text(raw / 'classes.txt', 'dent\n')
    wide = (slice(1, 9), slice(1, 11), 120)
    write_mask(raw / 'masks' / 'a.png', _mask(wide, (*ONE, 255)))
    (image,) = _masks_option(raw, tmp_path / 'out', 'binary').values()
    _assert_objects(image, [('dent', _mask((*ONE, 1)))])


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_instance__each_value_is_one_object(dtype: type, raw: Path, tmp_path: Path) -> None:
    write_text(raw / 'classes.txt', 'cell\n')
    high = np.iinfo(dtype).max
    mask = _mask((*ONE, 7), (*TWO, 7), (*THREE, high), dtype=dtype)  # 7 is in two pieces
    write_mask(raw / 'masks' / 'a.png', mask)
    (image,) = _masks_option(raw, tmp_path / 'out', 'instance').values()
    _assert_objects(image, [('cell', (mask == 7) * 1), ('cell', (mask == high) * 1)])


@pytest.mark.parametrize('case', ['no mask', 'no image', 'size', 'unreadable', 'image', 'colour'])
def test_bad_image_or_mask__is_left_out_and_named(case: str, raw: Path, tmp_path: Path) -> None:
    image = write_image(raw / 'images' / 'b.jpg', 40, 30)
    mask = write_mask(raw / 'masks' / 'b.png', _mask((*ONE, 1)))
    if case == 'no mask':
        mask.unlink()
        message = f'missing mask, image left out (a normal image has a mask of zeros)\n    {image}'
    elif case == 'no image':
        image.unlink()
        message = f'missing image or unknown class folder, mask left out\n    {mask}'
    elif case == 'size':
        write_image(image, 80, 60)
        message = f'size that differs from the file, image left out\n    {image} (annotation 40 x 30, file 80 x 60)'
    elif case == 'unreadable':
        mask.write_bytes(mask.read_bytes()[:40])
        message = f'unreadable mask, image left out\n    {mask}'
    elif case == 'image':
        image.write_bytes(image.read_bytes()[:-300])
        message = f'unreadable or truncated image, left out\n    {image}'
    else:
        write_image(mask, 40, 30)
        message = f'mask is a colour image, expected one channel; image left out\n    {mask}'
    assert list(convert('masks', raw, tmp_path / 'out')) == ['a']
    assert f'warning: 1 x {message}' in report(tmp_path / 'out')


def test_unknown_class_value__is_named_and_the_rest_kept(raw: Path, tmp_path: Path) -> None:
    write_mask(raw / 'masks' / 'a.png', _mask((*ONE, 1), (*TWO, 3), (*THREE, 9)))
    (image,) = convert('masks', raw, tmp_path / 'out').values()
    assert [name for name, _ in image['objects']] == ['dent']
    assert 'unknown class, its pixels left out' in report(tmp_path / 'out')
    assert 'a.png (values [3, 9])' in report(tmp_path / 'out')


def test_unknown_class_folder__is_named(raw: Path, tmp_path: Path) -> None:
    (raw / 'masks' / 'a.png').unlink()
    write_mask(raw / 'masks' / 'dent' / 'a.png', _mask((*ONE, 255)))
    rust = write_mask(raw / 'masks' / 'rust' / 'a.png', _mask((*TWO, 255)))
    (image,) = _masks_option(raw, tmp_path / 'out', 'binary').values()
    assert [name for name, _ in image['objects']] == ['dent']
    assert f'missing image or unknown class folder, mask left out\n    {rust}' in report(
        tmp_path / 'out'
    )


def test_masks_of_different_sizes__image_is_left_out(raw: Path, tmp_path: Path) -> None:
    write_image(raw / 'images' / 'b.jpg', 40, 30)
    write_mask(raw / 'masks' / 'dent' / 'b.png', _mask((*ONE, 255)))
    write_mask(raw / 'masks' / 'scratch' / 'b.png', np.zeros((5, 5), np.uint8))
    write_mask(raw / 'masks' / 'dent' / 'a.png', _mask((*ONE, 255)))
    assert list(_masks_option(raw, tmp_path / 'out', 'binary')) == ['a']
    assert 'b.jpg ([(5, 5), (40, 30)])' in report(tmp_path / 'out')


@pytest.mark.parametrize(
    ('values', 'classes', 'message'),
    [('class', None, 'names no classes'), ('instance', 'a\nb\n', 'masks of an unknown class')],
)
def test_class_names__missing_or_too_many(
    values: str,
    classes: str | None,
    message: str,
    raw: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (raw / 'classes.txt').unlink()
    if classes:
        write_text(raw / 'classes.txt', classes)
    assert main(['masks', str(raw), str(tmp_path / 'out'), '--values', values]) == 2
    assert message in one_error(capsys)
