"""Magnetic tiles: objects from masks, and no tile in two splits."""

import json
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from mmext.datasets.converters.magnetic_tile import SEEN_AGAIN, tile_groups
from mmext.tools.convert_dataset import main
from tests.datasets.raw_data import convert, read_output, report, write_image, write_mask

DATA = Path(os.environ.get('MMEXT_DATA', '')) / 'magnetic_tile'


def _photo(
    raw: Path, category: str, exposure: int, num: int, mask: np.ndarray | None = None
) -> Path:
    if mask is None:
        mask = np.zeros((30, 40), np.uint8)
        mask[5:15, 8:20] = 255 * (category != 'Free')
    path = raw / f'MT_{category}' / 'Imgs' / f'exp{exposure}_num_{num}.jpg'
    write_image(path, mask.shape[1], mask.shape[0], seed=num)
    write_mask(path.with_suffix('.png'), mask)
    return path


def test_objects__components_holes_specks_and_soft_edges(tmp_path: Path) -> None:
    mask = np.zeros((50, 60), np.uint8)
    mask[5:20, 5:25] = 255
    mask[10:14, 10:16] = 0  # a hole
    mask[20:23, 25:28] = 255  # touches the first at a corner: one object
    mask[5:20, 25] = 127  # the soft edge does not count ...
    mask[4, 5:25] = 128  # ... and this one does
    mask[40:42, 40:44] = 255  # 8 pixels: a speck
    mask[40:43, 50:53] = 255  # 9 pixels: an object
    _photo(tmp_path / 'raw', 'Crack', 1, 100, mask)
    (image,) = convert('magnetic_tile', tmp_path / 'raw', tmp_path / 'out').values()
    labels, count = ndimage.label(mask > 127, structure=np.ones((3, 3)))
    expected = [labels == label for label in range(1, count + 1)]
    expected = [component for component in expected if component.sum() >= 9]
    assert len(expected) == 2
    assert [name for name, _ in image['objects']] == ['Crack', 'Crack']
    for component, (_, annotation) in zip(expected, image['objects'], strict=True):
        np.testing.assert_array_equal(coco_mask.decode(annotation['segmentation']), component)
        rows, columns = np.nonzero(component)
        x, y = columns.min(), rows.min()
        assert annotation['bbox'] == [x, y, np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation['area'] == component.sum()
    assert 'exp1_num_100.png (1 components below 9 pixels)' in report(tmp_path / 'out')


def test_objects__of_a_mask_with_one_bit_a_pixel(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:15, 8:20] = True
    _photo(tmp_path / 'raw', 'Crack', 1, 100, mask)
    (image,) = convert('magnetic_tile', tmp_path / 'raw', tmp_path / 'out').values()
    ((_, annotation),) = image['objects']
    np.testing.assert_array_equal(coco_mask.decode(annotation['segmentation']), mask)


def test_read__free_photos_have_no_objects(tmp_path: Path) -> None:
    _photo(tmp_path / 'raw', 'Free', 1, 100)
    _photo(tmp_path / 'raw', 'Fray', 1, 5000)
    images = convert('magnetic_tile', tmp_path / 'raw', tmp_path / 'out')
    assert images['exp1_num_100']['objects'] == []
    assert images['exp1_num_100']['file_name'] == 'Free/exp1_num_100.jpg'
    assert images['exp1_num_5000']['objects'][0][0] == 'Fray'
    assert report(tmp_path / 'out') == 'no problems found\n'


def test_tile_groups__chain_of_small_gaps_and_tiles_seen_again() -> None:
    groups = tile_groups([1501, 100, 600, 1000, 8676, 10448, 20000])
    assert groups == {
        100: 100,
        600: 100,
        1000: 100,
        1501: 1501,
        8676: 8676,
        10448: 8676,
        20000: 20000,
    }


def _synthetic_tiles(raw: Path) -> dict[str, int]:
    """Forty tiles of six exposures, some of two classes; photo stem -> tile."""
    rng = np.random.default_rng(0)
    classes = ('Blowhole', 'Break', 'Crack', 'Fray', 'Uneven', 'Free', 'Free', 'Free')
    tile_of, num = {}, 0
    for tile in range(40):
        num += int(rng.integers(501, 3000))
        for exposure in range(1, 7):
            category = classes[tile % len(classes)] if exposure > tile % 3 else 'Free'
            _photo(raw, category, exposure, num)
            tile_of[f'exp{exposure}_num_{num}'] = tile
            num += int(rng.integers(10, 400))
    return tile_of


def test_split__no_synthetic_tile_is_in_two_splits(tmp_path: Path) -> None:
    tile_of = _synthetic_tiles(tmp_path / 'raw')
    assert main(['magnetic_tile', str(tmp_path / 'raw'), str(tmp_path / 'out')]) == 0
    splits: dict[int, set] = {}
    for stem, image in read_output(tmp_path / 'out').items():
        splits.setdefault(tile_of[stem], set()).add(image['split'])
    assert len(splits) == 40
    assert all(len(found) == 1 for found in splits.values())
    shares = Counter(found.pop() for found in splits.values())
    assert shares['train'] == pytest.approx(28, abs=1) and shares['val'] == pytest.approx(6, abs=1)


def test_num_free__keeps_that_many_and_the_split_of_the_others(tmp_path: Path) -> None:
    _synthetic_tiles(tmp_path / 'raw')
    outputs = []
    for options in ((), ('--num-free', '30'), ('--num-free', '0')):
        out = tmp_path / f'out{len(outputs)}'
        assert main(['magnetic_tile', str(tmp_path / 'raw'), str(out), *options]) == 0
        outputs.append(read_output(out))
    everything, thirty, none = outputs
    defects = {stem for stem, image in everything.items() if image['objects']}
    assert set(none) == defects
    assert len(thirty) == len(defects) + 30
    for output in (thirty, none):
        assert all(image['split'] == everything[stem]['split'] for stem, image in output.items())


@pytest.mark.parametrize(
    'case', ['no mask', 'empty mask', 'other size', 'name', 'class', 'no image']
)
def test_read__bad_input_is_left_out_and_named(case: str, tmp_path: Path) -> None:
    raw = tmp_path / 'raw'
    _photo(raw, 'Break', 1, 1)
    bad = _photo(raw, 'Break', 2, 20)
    mask_path = bad.with_suffix('.png')
    if case == 'no mask':
        mask_path.unlink()
        message = (
            f'missing mask, image left out (draw an empty one for a normal image)\n    {mask_path}'
        )
    elif case == 'empty mask':
        write_mask(mask_path, np.zeros((30, 40), np.uint8))
        message = f'mask of a defect is empty, image left out\n    {mask_path}'
    elif case == 'other size':
        write_image(bad, 41, 30)
        message = f'size that differs from the file, image left out\n    {bad} (annotation 40 x 30, file 41 x 30)'
    elif case == 'name':
        bad.rename(bad.with_name('photo.jpg'))
        mask_path.rename(bad.with_name('photo.png'))
        message = f'tile unknown, image left out\n    {bad.with_name("photo.jpg")}'
    elif case == 'class':
        _photo(raw, 'Rust', 1, 30)
        bad.unlink()
        mask_path.unlink()
        message = f'unknown class, image left out (known: {["Blowhole", "Break", "Crack", "Fray", "Uneven"]}'
    else:
        bad.unlink()
        message = f'missing image, mask left out\n    {bad}'
    images = convert('magnetic_tile', raw, tmp_path / 'out')
    assert list(images) == ['exp1_num_1']
    assert 'warning: 1 x ' in report(tmp_path / 'out') and message in report(tmp_path / 'out')


@pytest.fixture(scope='module')
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('magnetic_tile')
    assert main(['magnetic_tile', str(DATA), str(out), '--link']) in (0, 2)
    if not (out / 'train.json').exists():  # another file system: no links
        assert main(['magnetic_tile', str(DATA), str(out)]) == 0
    return out


def _texture(path: Path, size: int) -> np.ndarray:
    """The grinding marks of a photo, (size, size) with norm 1: high-pass, divided by local contrast."""
    image = cv2.resize(
        cv2.imread(str(path), 0).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA
    )
    marks = image - cv2.GaussianBlur(image, (0, 0), size / 32)
    marks /= np.sqrt(cv2.GaussianBlur(marks * marks, (0, 0), size / 16)) + 1
    window = np.hanning(size)
    marks = ((marks - marks.mean()) * np.outer(window, window)).astype(np.float32)
    return marks / np.linalg.norm(marks)


def _similarities(first: list[Path], second: list[Path], size: int, reach: int) -> np.ndarray:
    """Highest correlation of textures over shifts of up to `reach` pixels, (N, M)."""
    textures = np.stack([_texture(path, size) for path in first])
    flat = np.stack([_texture(path, size) for path in second]).reshape(len(second), -1)
    best = np.full((len(first), len(second)), -1, np.float32)
    for rows in range(-reach, reach + 1):
        for columns in range(-reach, reach + 1):
            moved = np.roll(textures, (rows, columns), (1, 2)).reshape(len(first), -1)
            np.maximum(best, moved @ flat.T, out=best)
    return best


def _same_tile(first: Path, second: Path) -> bool:
    """By the measure of the converter's docstring: 0.71 and more for one tile, 0.62 at most for two."""
    return bool(_similarities([first], [second], size=96, reach=6)[0, 0] > 0.66)


@pytest.mark.data
def test_split__no_photographed_tile_is_in_two_splits(converted: Path) -> None:
    """By what the photos show, not by their names: a coarse search, and a closer look at what it finds."""
    paths: dict[str, list[Path]] = {'train': [], 'val': [], 'test': []}
    for image in read_output(converted).values():
        paths[image['split']].append(converted / 'images' / image['file_name'])
    for one, other in (('val', 'train'), ('test', 'train'), ('val', 'test')):
        coarse = _similarities(paths[one], paths[other], size=48, reach=2)
        for row, column in np.argwhere(coarse > 0.5):
            pair = paths[one][row], paths[other][column]
            assert not _same_tile(*pair), pair
    inside = _similarities(paths['val'], paths['val'], size=48, reach=2)
    np.fill_diagonal(inside, -1)
    assert np.mean(inside.max(axis=1) > 0.5) > 0.95  # the search would have found other exposures


@pytest.mark.data
@pytest.mark.parametrize('nums', SEEN_AGAIN, ids=str)
def test_seen_again__photos_show_one_tile(nums: tuple[int, int]) -> None:
    first, second = (path for num in nums for path in DATA.glob(f'MT_*/Imgs/exp*_num_{num}.jpg'))
    assert _same_tile(first, second)


@pytest.mark.data
def test_read__real_data_in_numbers(converted: Path) -> None:
    images = read_output(converted)
    folders = Counter(image['file_name'].split('/')[0] for image in images.values())
    # 6 of the 103 masks of Uneven have no component of 9 pixels.
    assert folders == {
        'Free': 952,
        'Blowhole': 115,
        'Break': 85,
        'Crack': 57,
        'Fray': 32,
        'Uneven': 97,
    }
    assert '6 x mask of a defect is empty' in report(converted)
    splits = Counter(image['split'] for image in images.values())
    assert splits['train'] / len(images) == pytest.approx(0.7, abs=0.01)
    assert splits['val'] / len(images) == pytest.approx(0.15, abs=0.01)
    for split in ('train', 'val', 'test'):
        coco = json.loads((converted / f'{split}.json').read_text())
        assert {annotation['category_id'] for annotation in coco['annotations']} == {1, 2, 3, 4, 5}
