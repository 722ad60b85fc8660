"""The wrapper of albumentations: matte, boxes and masks land where hand arithmetic says, or are dropped together."""

import importlib.metadata
import os

import numpy as np
import pytest
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks

from mmext.datasets.transforms import Albumentations
from mmext.datasets.transforms.albumentations import import_albumentations

SIZE = (64, 50)
# (x, y, radius) of discs in the picture.
DISCS = [(30.0, 20.0, 12.0), (45.0, 38.0, 7.0)]
IMAGE = np.random.default_rng(0).integers(0, 256, (50, 64, 3), dtype=np.uint8)
NOTHING = dict(type='HorizontalFlip', p=0.0)


def _distance(disc: tuple[float, float, float]) -> np.ndarray:
    """Signed distance (h, w) to the edge of a disc, positive inside, at pixel centres."""
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    return disc[2] - np.hypot(x - disc[0], y - disc[1])


def _alpha(discs: list) -> np.ndarray:
    """Edges are 6 pixels wide."""
    return np.max([np.clip(_distance(d) / 6 + 0.5, 0, 1) for d in discs], axis=0).astype(np.float32)


def _masks(discs: list) -> np.ndarray:
    return np.stack([_distance(disc) > 0 for disc in discs]).astype(np.uint8)


def _boxes(discs: list) -> np.ndarray:
    return np.array([[x - r, y - r, x + r, y + r] for x, y, r in discs], np.float32)


def _sample(*kinds: str) -> dict:
    """A picture with what `kinds` names."""
    results: dict = {'img': IMAGE.copy(), 'img_shape': (50, 64), 'img_path': 'x.png'}
    if 'alpha' in kinds:
        results |= {'gt_alpha': _alpha(DISCS), 'alpha_fields': ['gt_alpha']}
    if 'boxes' in kinds:
        results |= {
            'gt_bboxes': HorizontalBoxes(_boxes(DISCS)),
            'gt_bboxes_labels': np.array([3, 5]),
            'gt_ignore_flags': np.array([False, True]),
        }
    if 'masks' in kinds:
        results['gt_masks'] = BitmapMasks(_masks(DISCS), 50, 64)
    return results


def _run(settings: list | dict, results: dict, seed: int = 0, **options: object) -> dict:
    transform = Albumentations(settings if isinstance(settings, list) else [settings], **options)
    np.random.seed(seed)  # noqa: NPY002
    return transform.transform(results)


def _affine(shift: tuple[int, int] = (0, 0), scale: float = 1.0, turn: float = 0.0) -> dict:
    return dict(
        type='Affine',
        translate_px=dict(x=shift[0], y=shift[1]),
        scale=scale,
        rotate=(turn, turn),
        p=1.0,
    )


def _moved(shift: tuple[int, int], scale: float, turn: float) -> list[tuple]:
    """The discs by hand: turned counter-clockwise about the middle of the picture, scaled, moved."""
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    moved = []
    for x, y, radius in DISCS:
        dx, dy = x - 32, y - 25
        moved.append(
            (
                32 + scale * (cos * dx + sin * dy) + shift[0],
                25 + scale * (cos * dy - sin * dx) + shift[1],
                scale * radius,
            )
        )
    return moved


@pytest.mark.parametrize(
    'move',
    [
        ((0, 0), 1.0, 0.0),
        ((5, -3), 1.0, 0.0),
        ((0, 0), 0.7, 0.0),
        ((0, 0), 1.0, 30.0),
        ((-4, 2), 0.8, -70.0),
    ],
    ids=['none', 'shift', 'scale', 'turn', 'all'],
)
def test_affine__matte_masks_and_boxes_land_where_arithmetic_says(move: tuple) -> None:
    results = _run(_affine(*move), _sample('alpha', 'boxes', 'masks'))
    expected = _moved(*move)
    known = results.get('gt_valid', np.ones((50, 64), bool))
    # The soft edge becomes narrower with the discs.
    soft = np.max([np.clip(_distance(d) / (6 * move[1]) + 0.5, 0, 1) for d in expected], axis=0)
    assert np.abs(results['gt_alpha'] - soft)[known].max() < 0.06
    for mask, disc in zip(results['gt_masks'].masks, expected, strict=True):
        distance = _distance(disc)
        assert mask[distance > 1].all() and not mask[distance < -1].any()
    assert np.abs(results['gt_bboxes'].numpy() - _boxes(expected)).max() < 1.01
    assert results['gt_bboxes_labels'].tolist() == [3, 5]
    assert results['gt_ignore_flags'].tolist() == [False, True]


def test_affine__outside_is_not_valid_and_empty() -> None:
    results = _run(_affine((10, 0)), _sample('alpha'))
    expected = np.ones((50, 64), bool)
    expected[:, :10] = False
    np.testing.assert_array_equal(results['gt_valid'], expected)
    assert results['alpha_fields'] == ['gt_alpha', 'gt_valid']
    assert (results['gt_alpha'][:, :10] == 0).all()


def test_boxes_only__move_and_are_clipped() -> None:
    results = _run(_affine((25, 0)), _sample('boxes'))
    expected = [[43, 8, 64, 32], [63, 31, 64, 45]]
    kept = [True, False]  # of the second, a 14th is left
    np.testing.assert_allclose(results['gt_bboxes'].numpy(), np.array(expected)[kept], atol=1e-3)
    assert results['gt_bboxes_labels'].tolist() == [3]
    assert results['gt_ignore_flags'].tolist() == [False]
    assert 'gt_masks' not in results


@pytest.mark.parametrize('kinds', [('boxes',), ('boxes', 'masks')], ids='+'.join)
def test_objects__all_dropped(kinds: tuple) -> None:
    results = _run(_affine((62, 0)), _sample(*kinds))
    assert results['gt_bboxes'].shape == (0, 4) and results['gt_bboxes_labels'].shape == (0,)
    if 'masks' in kinds:
        assert results['gt_masks'].masks.shape == (0, 50, 64)


def test_objects__with_empty_mask_goes_by_its_box_and_a_lost_mask_is_dropped() -> None:
    sample = _sample('boxes', 'masks')
    masks = np.zeros((2, 50, 64), np.uint8)
    masks[1, 37:40, 44:47] = 1  # far smaller than its box
    sample['gt_masks'] = BitmapMasks(masks, 50, 64)
    results = _run(_affine((18, 0)), sample, min_visibility=0.0)
    np.testing.assert_allclose(results['gt_bboxes'].numpy()[0], [36, 8, 60, 32], atol=1e-3)
    np.testing.assert_allclose(results['gt_bboxes'].numpy()[1], [62, 37, 64, 40], atol=1e-3)
    results = _run(_affine((4, 0)), results, min_visibility=0.0)
    assert results['gt_bboxes_labels'].tolist() == [3]


def test_keep_objects__draws_again_or_leaves_the_sample() -> None:
    far = dict(type='Affine', translate_px=dict(x=(0, 60), y=0), p=1.0)
    for seed in range(5):
        results = _run(far, _sample('boxes'), seed, keep_objects=True)
        assert results['gt_bboxes_labels'].tolist() == [3, 5]
        assert (results['img'] != IMAGE).any()
    results = _run(_affine((62, 0)), _sample('boxes', 'alpha'), keep_objects=True)
    np.testing.assert_array_equal(results['img'], IMAGE)
    np.testing.assert_array_equal(results['gt_alpha'], _alpha(DISCS))


@pytest.mark.parametrize('name', ['HorizontalFlip', 'VerticalFlip', 'Transpose'])
def test_flips__are_exact(name: str) -> None:
    sample = _sample('alpha', 'boxes', 'masks')
    results = _run(dict(type=name, p=1.0), _sample('alpha', 'boxes', 'masks'))
    turn = {
        'HorizontalFlip': lambda a: a[:, ::-1],
        'VerticalFlip': lambda a: a[::-1],
        'Transpose': lambda a: a.swapaxes(0, 1),
    }[name]
    np.testing.assert_array_equal(results['img'], turn(IMAGE))
    np.testing.assert_array_equal(results['gt_alpha'], turn(sample['gt_alpha']))
    for mask, before in zip(results['gt_masks'].masks, _masks(DISCS), strict=True):
        np.testing.assert_array_equal(mask, turn(before))
    assert 'gt_valid' not in results
    assert results['img_shape'] == results['gt_alpha'].shape == results['img'].shape[:2]


def test_crop__known_and_unknown_pixels() -> None:
    sample = _sample('alpha', 'boxes')
    sample['gt_valid'] = np.zeros((50, 64), bool)
    sample['gt_valid'][:, 30:] = True
    sample['alpha_fields'].append('gt_valid')
    crop = dict(type='Crop', x_min=20, y_min=5, x_max=50, y_max=40, p=1.0)
    results = _run(crop, sample)
    assert results['img_shape'] == (35, 30)
    np.testing.assert_array_equal(results['gt_alpha'], _alpha(DISCS)[5:40, 20:50])
    assert not results['gt_valid'][:, :10].any() and results['gt_valid'][:, 10:].all()
    np.testing.assert_allclose(
        results['gt_bboxes'].numpy(), [[0, 3, 22, 27], [18, 26, 30, 35]], atol=1e-3
    )


def test_colours__are_handed_over_as_rgb_and_leave_the_truth() -> None:
    shift = dict(type='RGBShift', r_shift_limit=(20, 20), g_shift_limit=0, b_shift_limit=0, p=1.0)
    sample = _sample('alpha', 'boxes', 'masks') | {'foreground': IMAGE[::-1].copy()}
    results = _run(shift, sample)
    expected = IMAGE.astype(int) + [0, 0, 20]
    np.testing.assert_array_equal(results['img'], expected.clip(0, 255))
    np.testing.assert_array_equal(results['foreground'], expected[::-1].clip(0, 255))
    np.testing.assert_array_equal(results['gt_alpha'], _alpha(DISCS))
    np.testing.assert_array_equal(results['gt_masks'].masks, _masks(DISCS))


def test_seed__of_numpy_decides() -> None:
    settings = [
        dict(
            type='OneOf',
            transforms=[dict(type='Blur', p=1.0), dict(type='GaussNoise', p=1.0)],
            p=0.9,
        ),
        dict(type='Affine', rotate=(-40, 40), p=0.9),
        dict(type='HueSaturationValue', p=0.9),
    ]
    first, again = (
        [_run(settings, _sample('alpha', 'boxes'), seed) for seed in range(4)] for _ in range(2)
    )
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one['img'], other['img'])
        np.testing.assert_array_equal(one['gt_alpha'], other['gt_alpha'])
    assert len({one['img'].tobytes() for one in first}) == 4


@pytest.mark.parametrize('kinds', [(), ('alpha',), ('boxes', 'masks')], ids=str)
def test_samples__without_objects(kinds: tuple) -> None:
    sample = _sample(*kinds)
    if 'boxes' in kinds:
        sample |= {
            'gt_bboxes': np.zeros((0, 4), np.float32),
            'gt_bboxes_labels': np.zeros(0, int),
            'gt_ignore_flags': np.zeros(0, bool),
            'gt_masks': PolygonMasks([], 50, 64),
        }
    results = _run(_affine((5, 0)), sample)
    np.testing.assert_array_equal(results['img'][:, 5:], IMAGE[:, :-5])
    if 'boxes' in kinds:
        assert results['gt_bboxes'].shape == (0, 4) and len(results['gt_masks']) == 0


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        ([], 'got no transforms'),
        ([dict(type='HorizontalFlop')], "'HorizontalFlop'.*such as HorizontalFlip"),
        ([dict(type='HorizontalFlip', probability=0.5)], 'knows no argument probability'),
        ([dict(type='HorizontalFlip', p=2)], 'albumentations.HorizontalFlip does not take'),
        ([dict(type='OneOf', transforms=[dict(type='Affine', angle=3)])], 'no argument angle'),
        ([dict(p=0.5)], 'got the transform None'),
    ],
    ids=['none', 'name', 'argument', 'value', 'nested', 'no type'],
)
@pytest.mark.filterwarnings('ignore:Argument')
def test_settings__wrong(settings: list, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Albumentations(settings)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (
            {'gt_bboxes': np.array([[70.0, 0, 80, 9]])},
            r'x.png: got the box \[70.0, 0.0, 80.0, 9.0\]',
        ),
        ({'gt_bboxes': np.array([[5.0, 5, 5, 9]])}, 'nothing lies in the image of 64 x 50'),
        ({'gt_seg_map': np.zeros((50, 64))}, 'gt_seg_map'),
        ({'img': IMAGE.astype(np.float32)}, 'float32'),
    ],
    ids=['outside', 'no width', 'semantic map', 'float image'],
)
def test_samples__wrong(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _run(NOTHING, _sample() | change)


def test_library__missing_or_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'version', missing)
    with pytest.raises(ImportError, match=r"not installed. pip install 'mmext\[app\]'"):
        Albumentations([NOTHING])
    monkeypatch.setattr(importlib.metadata, 'version', lambda name: '1.4.0')
    with pytest.raises(ImportError, match='needs albumentations 2.0.8, found 1.4.0'):
        Albumentations([NOTHING])


def test_library__asks_no_network_for_a_newer_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('NO_ALBUMENTATIONS_UPDATE', raising=False)
    import_albumentations()
    assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'
