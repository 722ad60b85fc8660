"""Conversion to maps of classes: what is drawn on top, what is not labelled, and that mmseg's data set reads it."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import loadmat, savemat

from mmext.datasets.converters.label_maps import common_suffix, draw_label_maps, draw_objects
from mmext.datasets.converters.objects import object_from_mask
from mmext.datasets.converters.person_classes import MERGED, merging_table
from mmext.datasets.converters.records import ImageRecord, ObjectRecord, RawDataset
from mmext.datasets.report import Report
from mmext.datasets.samplers import ClassBalancedSampler, map_labels
from mmext.tools import make_synthetic
from mmext.tools.convert_dataset import main
from tests.datasets.raw_data import EXIF_TURNED, report, write_image, write_mask, write_text
from tests.datasets.test_convert_person_parsing import DATA
from tests.one_message import one_error

LABELS = (
    'null accessories bag belt blazer blouse bodysuit boots bra bracelet cape cardigan clogs coat dress earrings flats '
    'glasses gloves hair hat heels hoodie intimate jacket jeans jumper leggings loafers necklace panties pants pumps purse '
    'ring romper sandals scarf shirt shoes shorts skin skirt sneakers socks stockings suit sunglasses sweater sweatshirt '
    'swimwear t-shirt tie tights top vest wallet watch wedges'
).split()


def read_dataset(root: Path, split: str, suffix: str = '.jpg', **options: object) -> BaseSegDataset:
    classes = (root / 'classes.txt').read_text(encoding='utf-8').splitlines()
    return BaseSegDataset(
        data_root=str(root),
        ann_file=f'{split}.txt',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix=suffix,
        metainfo=dict(classes=classes),
        **options,
    )


def read_maps(root: Path, split: str, suffix: str = '.jpg') -> dict[str, np.ndarray]:
    """Image stem -> map, as mmseg loads it."""
    dataset = read_dataset(root, split, suffix)
    records = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert all(Path(record['img_path']).is_file() for record in records)
    load = LoadAnnotations()
    return {Path(record['img_path']).stem: load(record)['gt_seg_map'] for record in records}


def write_label_list(raw: Path, names: list[str]) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    column = np.array([[np.array([name])] for name in names], dtype=object)
    savemat(raw / 'label_list.mat', {'label_list': column})


def write_person(raw: Path, name: str, labels: np.ndarray) -> None:
    write_image(raw / 'photos' / f'{name}.jpg', labels.shape[1], labels.shape[0])
    (raw / 'labels').mkdir(parents=True, exist_ok=True)
    savemat(raw / 'labels' / f'{name}.mat', {'groundtruth': labels})


def test_person_classes__every_label_has_one_class() -> None:
    named = [name for names in MERGED.values() for name in names]
    assert len(LABELS) == 59 and sorted(named) == sorted(LABELS)
    assert list(MERGED) == ['background', 'skin', 'hair', 'shoes', 'clothes', 'bag']
    table = merging_table(LABELS)
    by_name = dict(zip(LABELS, table.tolist(), strict=False))
    assert by_name['null'] == 0 and by_name['skin'] == 1 and by_name['hair'] == 2
    assert by_name['wedges'] == by_name['shoes'] == 3 and by_name['purse'] == 5
    assert by_name['hat'] == by_name['sunglasses'] == by_name['tights'] == 4
    assert (table[59:] == 255).all()


@pytest.mark.parametrize('names', [[], [*LABELS, 'cloak'], [*LABELS[:-1], 'skin']], ids=len)
def test_person_classes__other_labels_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=f'{len(names)} names.*MERGED'):
        merging_table(names)


def test_person_classes__go_by_the_names_in_the_file(tmp_path: Path) -> None:
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    swapped = ['null', 'bag', *LABELS[3:], 'accessories']  # in another order: 1 is the bag
    write_label_list(raw, swapped)
    labels = np.random.default_rng(0).integers(0, 59, (16, 12), dtype=np.uint8)
    for index in range(10):
        write_person(raw, f'{index:04d}', labels)
    strange = labels.copy()
    strange[0, :3] = 59, 200, 1
    write_person(raw, '0003', strange)
    assert main(['person_parsing', str(raw), str(out), '--semantic', '--strict']) == 1
    maps = read_maps(out, 'train') | read_maps(out, 'val')
    assert len(maps) == 10 and len((out / 'val.txt').read_text().split()) == 2
    table = merging_table(swapped)
    np.testing.assert_array_equal(maps['0000'], table[labels])
    assert maps['0003'][0, :3].tolist() == [255, 255, 5]
    assert 'unknown labels, their pixels not labelled (255)' in report(out)
    assert '[59, 200]' in report(out)


@pytest.mark.parametrize('case', ('missing', 'noise', 'other'))
def test_person_classes__need_the_list_of_labels(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_person(tmp_path / 'raw', '0000', np.ones((4, 4), np.uint8))
    path = tmp_path / 'raw' / 'label_list.mat'
    if case == 'noise':
        path.write_bytes(b'noise' * 100)
    if case == 'other':
        savemat(path, {'labels': np.ones(3)})
    assert main(['person_parsing', str(tmp_path / 'raw'), str(tmp_path / 'out'), '--semantic']) == 2
    assert 'label_list.mat' in one_error(capsys)
    assert not (tmp_path / 'out').exists()


def test_drawing__the_smaller_lies_on_top_and_the_unknown_is_not_labelled() -> None:
    def block(category: str, rows: slice, columns: slice) -> ObjectRecord:
        mask = np.zeros((6, 8), bool)
        mask[rows, columns] = True
        return object_from_mask(mask, category)

    small, large = block('a', slice(1, 3), slice(1, 3)), block('b', slice(0, 5), slice(0, 5))
    later = block('b', slice(2, 4), slice(2, 4))  # as large as the small one
    polygon = ObjectRecord('a', (6, 0, 2, 2), 4.0, [[6.0, 0.0, 8.0, 0.0, 8.0, 2.0, 6.0, 2.0]])
    box = ObjectRecord('a', (3.5, 3.5, 4.0, 2.0), 8.0)
    crowd = block('a', slice(5, 6), slice(0, 8))
    crowd.iscrowd = True
    drawing = draw_objects([small, large, later, polygon, box, crowd], {'a': 1, 'b': 2}, (8, 6))
    expected = [
        [2, 2, 2, 2, 2, 0, 1, 1],
        [2, 1, 1, 2, 2, 0, 1, 1],
        [2, 1, 2, 2, 2, 0, 0, 0],
        [2, 2, 2, 2, 2, 255, 255, 255],
        [2, 2, 2, 2, 2, 255, 255, 255],
        [255] * 8,
    ]
    np.testing.assert_array_equal(drawing.labels, expected)
    assert drawing.num_covered == 4 + 4 and drawing.num_unknown == 2
    assert draw_objects([], {}, (3, 2)).labels.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_drawing__what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    path = write_image(tmp_path / 'a.jpg', 8, 6, orientation=EXIF_TURNED)
    box = ObjectRecord('a', (0, 0, 2, 2), 4.0)
    with pytest.raises(ValueError, match='all are boxes'):
        draw_label_maps(RawDataset(['a'], [ImageRecord(path, 'a.jpg', 6, 8, [box])]), Report())
    with pytest.raises(ValueError, match='256 classes'):
        draw_label_maps(RawDataset([str(i) for i in range(255)], []), Report())
    found = Report()
    kept = draw_label_maps(
        RawDataset(['a'], [ImageRecord(path, name, *size) for name, size in (('u', (6, 8)), ('s', (8, 6)))]), found
    )  # fmt: skip
    assert [image.file_name for image in kept.images] == ['u'] and kept.classes == [
        'background',
        'a',
    ]
    assert list(found.problems) == ['annotated as stored, not upright; image left out']
    with pytest.raises(ValueError, match=r'2 x .jpg, 1 x .png'):
        common_suffix(['a.jpg', 'b.c/d.jpg', 'e.png'])


def test_magnetic_tile__maps_are_the_masks(tmp_path: Path) -> None:
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:9], mask[10, 10:20] = 255, 127  # anti-aliased: 127 is not the defect
    mask[15, 20:24], mask[18, 2] = 255, 128  # too small for objects, and marked all the same
    folder = raw / 'MT_Crack' / 'Imgs'
    write_image(folder / 'exp1_num_7.jpg', 30, 20)
    write_mask(folder / 'exp1_num_7.png', mask)
    write_image(raw / 'MT_Free' / 'Imgs' / 'exp1_num_9000.jpg', 30, 20)
    arguments = [str(raw), str(out), '--semantic', '--fractions', '1', '0', '0']
    assert main(['magnetic_tile', *arguments]) == 0
    classes = ['background', 'Blowhole', 'Break', 'Crack', 'Fray', 'Uneven']
    assert (out / 'classes.txt').read_text().split() == classes
    maps = read_maps(out, 'train')
    np.testing.assert_array_equal(maps['exp1_num_7'], 3 * (mask > 127))
    assert (mask > 127).sum() == 30 + 5 and 'exp1_num_7.png (2 components below 9' in report(out)
    assert not maps['exp1_num_9000'].any() and not (out / 'val.txt').exists()
    # For rare classes: images are drawn by what their maps show.
    dataset = read_dataset(out, 'train')
    assert sorted(map_labels(dataset.get_data_info(i)) for i in range(2)) == [[0], [0, 3]]
    sampler = ClassBalancedSampler(dataset, empty_fraction=0.0, num_samples=4, seed=0)
    assert set(sampler) == {i for i in range(2) if 3 in map_labels(dataset.get_data_info(i))}


def test_sampler__reads_maps_as_mmseg_numbers_them(tmp_path: Path) -> None:
    path = write_mask(tmp_path / 'a.png', np.array([[0, 1, 4, 255]], np.uint8))
    record = dict(seg_map_path=str(path), reduce_zero_label=True, label_map={0: 5, 3: 255})
    assert map_labels(record) == [5]
    assert map_labels(dict(seg_map_path=str(path))) == [0, 1, 4]
    with pytest.raises(ValueError, match='b.png cannot be read.*seg_map_suffix'):
        map_labels(dict(seg_map_path=str(tmp_path / 'b.png')))


def test_yolo__outlines_are_drawn_and_boxes_alone_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    write_image(raw / 'images' / 'a.b.png', 20, 10)
    write_text(raw / 'classes.txt', 'dent\n')
    write_text(raw / 'labels' / 'a.b.txt', '0 0.5 0.5 0.2 0.2\n')
    options = ['--semantic', '--fractions', '1', '0', '0']
    assert main(['yolo', str(raw), str(out), *options]) == 2
    assert 'without --semantic' in one_error(capsys)
    write_text(raw / 'labels' / 'a.b.txt', '0 0 0 0.5 0 0.5 0.5 0 0.5\n')
    assert main(['yolo', str(raw), str(out), *options]) == 0
    assert "img_suffix='.png'" in capsys.readouterr().out
    expected = np.zeros((10, 20), np.uint8)
    expected[:5, :10] = 1
    np.testing.assert_array_equal(read_maps(out, 'train', '.png')['a.b'], expected)


def test_synthetic__maps_agree_with_the_masks_and_go_with_the_data(tmp_path: Path) -> None:
    arguments = [str(tmp_path), '--num-train', '3', '--num-val', '1', '--size', '64']
    assert make_synthetic.main([*arguments, '--semantic', '--objects', '2']) == 0
    assert (tmp_path / 'classes.txt').read_text().split()[:2] == ['NORMAL', 'DEFORMACIONES']
    coco = json.loads((tmp_path / 'train.json').read_text())
    maps = read_maps(tmp_path, 'train', '.png')
    assert len(maps) == 3 and len(coco['annotations']) >= 3
    for image in coco['images']:
        expected = np.zeros((image['height'], image['width']), np.uint8)
        for own in (a for a in coco['annotations'] if a['image_id'] == image['id']):
            expected[coco_mask.decode(own['segmentation']) > 0] = own['category_id']
        np.testing.assert_array_equal(maps[Path(image['file_name']).stem], expected)
    assert make_synthetic.main([*arguments, '--overwrite']) == 0
    assert not list((tmp_path / 'labels').iterdir()) and not (tmp_path / 'train.txt').exists()


def test_synthetic__portraits_have_no_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_synthetic.main([str(tmp_path / 'out'), '--preset', 'portraits', '--semantic']) == 2
    assert '--semantic' in one_error(capsys)


@pytest.mark.data
@pytest.mark.slow
def test_person_classes__real_data_in_numbers(tmp_path: Path) -> None:
    names = [
        str(np.squeeze(name)) for name in loadmat(DATA / 'label_list.mat')['label_list'].ravel()
    ]
    assert names == LABELS
    assert main(['person_parsing', str(DATA), str(tmp_path), '--semantic', '--strict']) == 0
    assert [len(read_dataset(tmp_path, split)) for split in ('train', 'val')] == [200, 51]
    labels = loadmat(DATA / 'labels' / '0001.mat')['groundtruth']
    with Image.open(tmp_path / 'labels' / '0001.png') as image:
        np.testing.assert_array_equal(np.asarray(image), merging_table(LABELS)[labels])
