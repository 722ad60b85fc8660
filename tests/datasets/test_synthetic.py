"""The synthetic defects: files, determinism, exact masks, and that no threshold finds them."""

import dataclasses
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO

from mmext.datasets.synthetic import (
    METAL,
    NORMAL,
    PRESETS,
    TILE,
    Preset,
    crowded,
    generate_image,
)
from mmext.datasets.synthetic.shapes import arc_path, blob, stroke, wandering_path
from mmext.datasets.synthetic.surfaces import Surface
from mmext.tools.make_synthetic import main

ALL_CLASSES = [
    (preset, index) for preset in PRESETS.values() for index in range(len(preset.classes))
]


def _only(preset: Preset, index: int) -> Preset:
    """A preset in which every image has exactly one defect, of one class."""
    return dataclasses.replace(
        preset, classes=(preset.classes[index],), normal_fraction=0.0, num_defects=(1.0,)
    )


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob('*')) if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope='module', params=PRESETS)
def data_set(request, tmp_path_factory) -> tuple[Path, Preset]:
    out = tmp_path_factory.mktemp('synthetic') / request.param
    arguments = ['--preset', request.param, '--num-train', '30', '--num-val', '6', '--size', '128']
    assert main([str(out), *arguments]) == 0
    return out, PRESETS[request.param]


def test_make_synthetic__files_and_records(data_set):
    out, preset = data_set
    assert sorted(path.name for path in out.iterdir()) == ['images', 'train.json', 'val.json']
    names = {i: defect.name for i, defect in enumerate(preset.classes, start=1)}
    num_images = 0
    for split, count in (('train', 30), ('val', 6)):
        coco = COCO(out / f'{split}.json')
        assert {c['id']: c['name'] for c in coco.dataset['categories']} == names
        assert len(coco.imgs) == count
        for record in coco.imgs.values():
            image = cv2.imread(str(out / 'images' / record['file_name']), cv2.IMREAD_UNCHANGED)
            assert image.shape[:2] == (record['height'], record['width'])
            assert image.ndim == (2 if preset.grey else 3)
            found = {names[a['category_id']] for a in coco.imgToAnns[record['id']]}
            assert set(record['image_labels']) == (found or {NORMAL})
        num_images += count
    assert len(list((out / 'images').iterdir())) == num_images


def test_make_synthetic__ids_are_unique_over_the_splits(data_set):
    splits = [json.loads((data_set[0] / f'{split}.json').read_text()) for split in ('train', 'val')]
    for kind in ('images', 'annotations'):
        ids = [entry['id'] for coco in splits for entry in coco[kind]]
        assert len(ids) == len(set(ids))


def test_make_synthetic__boxes_and_areas_belong_to_the_masks(data_set):
    coco = COCO(data_set[0] / 'train.json')
    assert coco.anns
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y, width, height = annotation['bbox']
        assert (x, y) == (columns[0], rows[0])
        assert (x + width, y + height) == (columns[-1] + 1, rows[-1] + 1)
        assert annotation['area'] == mask.sum() >= 12
    for image_id in coco.imgs:
        masks = [coco.annToMask(a) for a in coco.imgToAnns[image_id]]
        assert not masks or np.sum(masks, axis=0).max() == 1


def test_make_synthetic__prints_what_is_in_each_split(tmp_path, capsys):
    arguments = ['--num-train', '8', '--num-val', '1', '--size', '64']
    assert main([str(tmp_path / 'out'), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    coco = json.loads((tmp_path / 'out' / 'train.json').read_text())
    num_normal = sum(image['image_labels'] == [NORMAL] for image in coco['images'])
    names = {category['id']: category['name'] for category in coco['categories']}
    found = [names[annotation['category_id']] for annotation in coco['annotations']]
    counts = ', '.join(f'{name} {found.count(name)}' for name in names.values())
    assert f'train 8 images ({num_normal} without objects), objects: {counts}' in lines


def test_make_synthetic__is_read_by_mmdet(data_set):
    out, preset = data_set
    dataset = CocoDataset(
        ann_file='train.json',
        data_root=str(out),
        data_prefix={'img': 'images/'},
        metainfo=preset.metainfo,
        filter_cfg={'filter_empty_gt': False},
        pipeline=[
            {'type': 'LoadImageFromFile'},
            {
                'type': 'mmdet.LoadAnnotations',
                'with_bbox': True,
                'with_mask': True,
                'poly2mask': True,
            },
        ],
    )
    assert len(dataset) == 30
    samples = [dataset[i] for i in range(30)]
    num_objects = sum(len(sample['gt_masks']) for sample in samples)
    assert num_objects == len(COCO(out / 'train.json').anns)
    labels = np.concatenate([sample['gt_bboxes_labels'] for sample in samples])
    assert set(labels.tolist()) <= set(range(len(preset.classes)))


@pytest.mark.parametrize('preset', PRESETS)
def test_make_synthetic__same_seed_same_bytes(preset, tmp_path):
    arguments = ['--preset', preset, '--num-val', '2', '--size', '96']
    for name, seed, count in (
        ('a', '7', '4'),
        ('b', '7', '4'),
        ('other', '8', '4'),
        ('more', '7', '6'),
    ):
        assert main([str(tmp_path / name), *arguments, '--num-train', count, '--seed', seed]) == 0
    first = _digests(tmp_path / 'a')
    assert len(first) == 8
    assert first == _digests(tmp_path / 'b')
    other, more = _digests(tmp_path / 'other'), _digests(tmp_path / 'more')
    images = [name for name in first if name.startswith('images')]
    assert all(first[name] != other[name] for name in images)
    # A larger set begins with the smaller one.
    assert all(first[name] == more[name] for name in images)


def test_metal__has_the_classes_of_the_mission():
    assert METAL.metainfo['classes'] == (
        'DEFORMACIONES',
        'ROTURA_FRACTURA',
        'RAYONES_ARANAZOS',
        'PERFORACIONES',
        'CONTAMINACION',
    )
    assert METAL.metainfo['aliases'] == {
        'NORMAL': 'normal',
        'DEFORMACIONES': 'deformation',
        'ROTURA_FRACTURA': 'fracture',
        'RAYONES_ARANAZOS': 'scratch',
        'PERFORACIONES': 'perforation',
        'CONTAMINACION': 'contamination',
    }


def test_tile__has_the_classes_of_the_real_tiles():
    assert TILE.metainfo['classes'] == ('Blowhole', 'Break', 'Crack', 'Fray', 'Uneven')


def _plain_surface(rng: np.random.Generator, shape: tuple[int, int]) -> Surface:
    return Surface(np.zeros((*shape, 3), np.float32), np.ones(shape, bool), grain=0.0)


def _draw_square(rng: np.random.Generator, surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    """Nothing to see, and its mask."""
    mask = np.zeros(surface.shape, bool)
    row, column = rng.integers(0, np.array(surface.shape) - 8)
    mask[row : row + 8, column : column + 8] = True
    return surface.image, mask


@pytest.mark.parametrize('preset', PRESETS.values(), ids=PRESETS)
def test_generate_image__shares_of_normal_images_and_classes(preset):
    # How often is asked, not how it looks; that every class finds its place is tested below.
    classes = tuple(dataclasses.replace(own, draw=_draw_square) for own in preset.classes)
    preset = dataclasses.replace(preset, surface=_plain_surface, classes=classes)
    samples = [generate_image(np.random.default_rng([5, i]), preset, 64) for i in range(400)]
    # To within four standard deviations of so many draws.
    normal = np.mean([len(sample.labels) == 0 for sample in samples])
    assert normal == pytest.approx(preset.normal_fraction, abs=0.075)
    shares = np.bincount(np.concatenate([s.labels for s in samples]), minlength=5)
    weights = np.array([own.weight for own in classes])
    assert shares / shares.sum() == pytest.approx(weights / weights.sum(), abs=0.065)


def test_crowded__as_many_defects_as_asked_for_and_find_room():
    preset = crowded(METAL, 12, 15)
    assert preset.num_defects == (0.0,) * 11 + (0.25,) * 4
    samples = [generate_image(np.random.default_rng([5, i]), preset, 96) for i in range(8)]
    counts = [len(sample.labels) for sample in samples if len(sample.labels)]
    assert max(counts) <= 15 and np.median(counts) >= 10
    assert all((sample.masks.sum(axis=0) <= 1).all() for sample in samples)


def test_make_synthetic__small_objects_in_crowds(tmp_path):
    options = ['--num-train', '4', '--num-val', '0', '--size', '128', '--objects', '6']
    areas = {}
    for scale in ('1', '0.5'):
        out = tmp_path / scale
        assert main([str(out), *options, '--object-scale', scale]) == 0
        coco = json.loads((out / 'train.json').read_text())
        per_image = np.bincount([a['image_id'] for a in coco['annotations']])
        assert set(per_image.tolist()) - {0} <= {4, 5, 6}
        areas[scale] = np.median([annotation['area'] for annotation in coco['annotations']])
    assert areas['0.5'] < 0.6 * areas['1']


@pytest.mark.parametrize(
    ('preset', 'index'), ALL_CLASSES, ids=[p.classes[i].alias for p, i in ALL_CLASSES]
)
def test_draw__changes_the_image_inside_its_mask(preset, index):
    """The mask holds the defect: most of the change lies in it, and most of it is changed."""
    inside, changed = [], []
    for seed in range(8):
        rng = np.random.default_rng([11, seed])
        surface = preset.surface(rng, (160, 160))
        image, mask = preset.classes[index].draw(rng, surface)
        if mask.sum() < 12:
            continue
        change = np.abs(image - surface.image).mean(axis=2)
        # Beyond three pixels of the mask there is nothing but soft fading.
        near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        inside.append(change[near].sum() / change.sum())
        changed.append(np.mean(change[mask] > 1))
        assert mask.shape == (160, 160) and mask.dtype == bool
        assert not (mask & ~surface.body).any()
    assert len(inside) >= 6
    assert np.median(inside) > 0.9
    assert np.median(changed) > 0.7


@pytest.mark.parametrize(
    ('preset', 'index'), ALL_CLASSES, ids=[p.classes[i].alias for p, i in ALL_CLASSES]
)
def test_generate_image__every_class_can_be_placed(preset, index):
    samples = [
        generate_image(np.random.default_rng([2, i]), _only(preset, index), 96) for i in range(10)
    ]
    assert sum(len(sample.labels) for sample in samples) >= 9


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def _ious_above(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`_iou(values > threshold, truth)` of every threshold from 0 to 254, by counting values of 0 to 255."""
    counts = [np.bincount(values[own], minlength=256) for own in (truth, ~truth)]
    inside, outside = (own[::-1].cumsum()[::-1][1:] for own in counts)
    return inside / (truth.sum() + outside)


@pytest.mark.parametrize('preset', PRESETS.values(), ids=PRESETS)
def test_generate_image__no_threshold_finds_the_defects(preset):
    samples = [generate_image(np.random.default_rng([1, i]), preset, 192) for i in range(30)]
    samples = [sample for sample in samples if len(sample.labels)]
    otsu, against_background = [], {21: [], 51: []}
    for sample in samples:
        truth = sample.masks.any(axis=0)
        grey = cv2.cvtColor(sample.image, cv2.COLOR_BGR2GRAY)
        dark = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)[1] == 0
        otsu.append(max(_iou(dark, truth), _iou(~dark, truth)))
        for size, found in against_background.items():
            distance = np.abs(grey - cv2.medianBlur(grey, size).astype(int))
            found.append(_ious_above(distance, truth))
            assert found[-1][20] == pytest.approx(_iou(distance > 20, truth))
    # The better polarity per image, and the best threshold of all, chosen with the truth in hand.
    assert np.mean(otsu) < 0.25
    assert all(np.mean(found, axis=0).max() < 0.3 for found in against_background.values())


def test_generate_image__tiles_are_grey_and_sheets_are_not():
    rng = np.random.default_rng(0)
    tile, sheet = generate_image(rng, TILE, 96).image, generate_image(rng, METAL, 96).image
    assert (tile == tile[..., :1]).all()
    assert (sheet != sheet[..., :1]).any()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--num-train', '-1'], 'got -1 images for train'),
        (['--num-train', '0', '--num-val', '0'], 'at least one image'),
        (['--size', '32'], 'expected 64 to 4096'),
        (['--size', '5000'], 'expected 64 to 4096'),
        (['--seed', '-3'], 'got seed -3'),
        (['--objects', 'many'], "--objects: got 'many'; expected N or N-M"),
        (['--objects', '5-2'], 'got 5 to 2 defects an image'),
        (['--objects', '0-2'], 'got 0 to 2 defects an image'),
        (['--object-scale', '0'], '--object-scale: got 0.0'),
    ],
)
def test_make_synthetic__wrong_numbers(arguments, message, tmp_path, capsys):
    assert main([str(tmp_path / 'out'), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


TINY = ['--num-train', '1', '--num-val', '0', '--size', '64']


def test_make_synthetic__folder_in_use(tmp_path, capsys):
    assert main([str(tmp_path), '--num-train', '3', '--num-val', '0', '--size', '64']) == 0
    before = _digests(tmp_path)
    assert main([str(tmp_path), *TINY]) == 2
    assert '--overwrite' in capsys.readouterr().err
    assert _digests(tmp_path) == before
    assert main([str(tmp_path), *TINY, '--overwrite']) == 0
    assert [path.name for path in (tmp_path / 'images').iterdir()] == ['train_00000.png']


def test_make_synthetic__foreign_files_are_never_overwritten(tmp_path, capsys):
    (tmp_path / 'thesis.tex').write_text('years of work')
    assert main([str(tmp_path), *TINY, '--overwrite']) == 2
    assert 'thesis.tex' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_make_synthetic__out_is_a_file(tmp_path, capsys):
    (tmp_path / 'out').write_text('')
    assert main([str(tmp_path / 'out'), *TINY]) == 2
    assert 'is a file' in capsys.readouterr().err


def test_stroke__has_its_width():
    # A horizontal line of width 3 around y = 20 covers 3 pixels in each column it crosses.
    opacity = stroke((40, 60), np.array([[-5.0, 20], [70, 20]]), 3)
    assert opacity[:, 10:50].sum(axis=0) == pytest.approx(np.full(40, 3.0), abs=0.3)
    assert opacity[20, 30] == 1 and opacity[24, 30] == 0


def test_blob__without_roughness_is_an_ellipse():
    distance = blob(
        np.random.default_rng(0), (80, 100), (50, 40), (30, 20), angle=0.0, roughness=0.0
    )
    assert (distance > 0).sum() == pytest.approx(np.pi * 30 * 20, rel=0.01)
    assert distance[40, 50] > 0 > distance[2, 50]


def test_paths__have_their_length():
    arc = arc_path((10, 10), 0.3, 100, 0.8)
    walk = wandering_path(np.random.default_rng(0), (5, 5), 1.0, 60, step=4, wander=0.4)
    for path, length in ((arc, 100), (walk, 60)):
        assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() == pytest.approx(length)
    assert walk[0].tolist() == [5, 5]


def test_masks__survive_the_run_length_code():
    sample = generate_image(np.random.default_rng(4), _only(METAL, 4), 128)
    rle = rle_codec.encode(np.asfortranarray(sample.masks[0], dtype=np.uint8))
    assert (rle_codec.decode(rle) == sample.masks[0]).all()
