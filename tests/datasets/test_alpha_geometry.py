"""Resize, flip, turn, crop, shift-scale-rotate: the matte stays on the image, and both land where they should."""

import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform, RandomResize

from mmext.datasets.transforms import (
    AlphaCrop,
    AlphaFlip,
    AlphaResize,
    AlphaRotate90,
    AlphaShiftScaleRotate,
)


def _soft_disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Alpha of a disc about (30, 20) of radius 12, whose edge is 6 pixels wide, at continuous (x, y)."""
    return np.clip((12 - np.hypot(x - 30, y - 20)) / 6 + 0.5, 0, 1)


def _centres(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return x, y


def _sample(alpha: np.ndarray | None = None, **fields: np.ndarray) -> dict:
    """A picture whose grey value shows its matte."""
    alpha = _soft_disc(*_centres(64, 50)).astype(np.float32) if alpha is None else alpha
    image = np.repeat((alpha * 255).round().astype(np.uint8)[..., None], 3, 2)
    results = {'img': image, 'gt_alpha': alpha, 'alpha_fields': ['gt_alpha', *fields], **fields}
    return results | {'img_shape': alpha.shape, 'ori_shape': alpha.shape, 'img_path': 'x.png'}


EVERY = {
    'smaller': AlphaResize((31, 31)),
    'larger': AlphaResize((100, 100)),
    'stretched': AlphaResize((33, 90), keep_ratio=False),
    'flip': AlphaFlip(1.0),
    'turn': AlphaRotate90(1.0),
    'crop': AlphaCrop((31, 27)),
    'affine': AlphaShiftScaleRotate(prob=1.0, pad_val=0, rotate=40),
}


@pytest.mark.parametrize('name', EVERY)
def test_every_transform__matte_image_and_foreground_stay_in_step(name: str) -> None:
    np.random.seed(3)  # noqa: NPY002
    sample = _sample(gt_valid=np.ones((50, 64), bool))
    sample['foreground'] = 255 - sample['img']
    results = EVERY[name].transform(sample)
    image, alpha = results['img'], results['gt_alpha']
    assert results['img_shape'] == image.shape[:2] == alpha.shape == results['gt_valid'].shape
    assert alpha.dtype == np.float32 and results['gt_valid'].dtype == bool
    assert np.abs(image[..., 1] / 255 - alpha).max() < 0.012
    known = results['gt_valid']
    assert np.abs(results['foreground'][..., 0] + image[..., 0].astype(int) - 255)[known].max() < 3
    assert 0.2 < alpha.mean() / _soft_disc(*_centres(64, 50)).mean() < 5


def test_resize__shrinks_by_area() -> None:
    alpha = np.random.default_rng(0).random((40, 60), np.float32)
    results = AlphaResize((30, 20)).transform(_sample(alpha))
    expected = alpha.reshape(20, 2, 30, 2).mean((1, 3))
    np.testing.assert_allclose(results['gt_alpha'], expected, atol=1e-6)
    assert results['scale_factor'] == (0.5, 0.5) and results['keep_ratio'] is True


def test_resize__grows_bilinearly() -> None:
    alpha = np.random.default_rng(0).random((7, 9), np.float32)
    results = AlphaResize((23, 31), keep_ratio=False).transform(_sample(alpha))
    expected = torch.nn.functional.interpolate(
        torch.tensor(alpha)[None, None], (31, 23), mode='bilinear'
    )
    np.testing.assert_allclose(results['gt_alpha'], expected[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize('size', [(550, 825), (825, 550), (1, 1), (1, 300), (333, 77)], ids=str)
def test_resize__keeps_the_ratio_as_mmcv_does(size: tuple[int, int]) -> None:
    results = AlphaResize((256, 192)).transform(_sample(np.ones(size[::-1], np.float32)))
    expected = np.maximum(mmcv.rescale_size(size, (256, 192)), 1)
    assert results['img'].shape[1::-1] == tuple(expected)
    assert 1 - 1e-6 < results['gt_alpha'].min() and results['gt_alpha'].max() <= 1


def test_resize__unknown_pixels_by_nearest_neighbour_and_without_matte() -> None:
    valid = np.zeros((40, 60), bool)
    valid[:, 30:] = True
    results = AlphaResize((30, 30)).transform(
        _sample(np.ones((40, 60), np.float32), gt_valid=valid)
    )
    assert not results['gt_valid'][:, :15].any() and results['gt_valid'][:, 15:].all()
    assert AlphaResize(8).transform({'img': np.zeros((9, 16, 3), np.uint8)})['img_shape'] == (5, 8)


def test_resize__serves_mmcv_random_resize() -> None:
    np.random.seed(0)  # noqa: NPY002
    resize = RandomResize((64, 64), (0.5, 2.0), 'mmext.AlphaResize', keep_ratio=True)
    widths = {resize.transform(_sample())['gt_alpha'].shape[1] for _ in range(20)}
    assert len(widths) > 10 and min(widths) >= 32 and max(widths) <= 128
    with pytest.raises(ValueError, match='got scale='):
        AlphaResize((0, 64)).transform(_sample())


@pytest.mark.parametrize(('direction', 'axis'), [('horizontal', 1), ('vertical', 0)])
def test_flip__mirrors_everything_and_says_so(direction: str, axis: int) -> None:
    sample = _sample(np.random.default_rng(0).random((5, 7), np.float32))
    expected = np.flip(sample['gt_alpha'], axis)
    results = AlphaFlip(1.0, direction).transform(sample)
    np.testing.assert_array_equal(results['gt_alpha'], expected)
    assert (results['flip'], results['flip_direction']) == (True, direction)
    results = AlphaFlip(0.0).transform(results)
    np.testing.assert_array_equal(results['gt_alpha'], expected)
    assert (results['flip'], results['flip_direction']) == (False, None)


def test_rotate_90__each_turn_occurs() -> None:
    np.random.seed(0)  # noqa: NPY002
    alpha = np.random.default_rng(0).random((5, 7), np.float32)
    turns = [AlphaRotate90(0.75).transform(_sample(alpha))['gt_alpha'] for _ in range(200)]
    counts = [sum(np.array_equal(turned, np.rot90(alpha, k)) for turned in turns) for k in range(4)]
    assert sum(counts) == 200 and min(counts) > 30


@pytest.mark.parametrize('seed', range(4))
def test_shift_scale_rotate__disc_lands_where_the_matrix_says(seed: int) -> None:
    transform = AlphaShiftScaleRotate(shift=0.2, scale_range=(0.7, 1.4), rotate=60, prob=1)
    np.random.seed(seed)  # noqa: NPY002
    matrix = transform.draw_matrix((64, 50))
    assert 0.7 <= np.sqrt(np.linalg.det(matrix)) <= 1.4
    assert np.all(np.abs((matrix @ (32, 25, 1))[:2] - (32, 25)) <= (12.8, 10))
    np.random.seed(seed)  # noqa: NPY002
    results = transform.transform(_sample())
    x, y = _centres(64, 50)
    back_x, back_y = np.einsum('ij,jhw->ihw', np.linalg.inv(matrix), [x, y, np.ones_like(x)])[:2]
    inside = (back_x > 1) & (back_x < 63) & (back_y > 1) & (back_y < 49)
    outside = (back_x < -1) | (back_x > 65) | (back_y < -1) | (back_y > 51)
    assert outside.any()
    expected = _soft_disc(back_x, back_y)
    assert np.abs(results['gt_alpha'] - expected)[inside].max() < 0.05
    assert results['gt_valid'][inside].all() and not results['gt_valid'][outside].any()
    assert (results['gt_alpha'][outside] == 0).all() and (results['img'][outside] == 114).all()
    assert results['alpha_fields'] == ['gt_alpha', 'gt_valid']


def test_shift_scale_rotate__left_alone() -> None:
    sample = _sample()
    expected = sample['img'].copy()
    results = AlphaShiftScaleRotate(prob=0).transform(sample)
    np.testing.assert_array_equal(results['img'], expected)
    assert 'gt_valid' not in results


def test_crop__holds_enough_foreground() -> None:
    np.random.seed(0)  # noqa: NPY002
    alpha = np.zeros((100, 100), np.float32)
    alpha[80:90, 5:15] = 1
    held = [AlphaCrop((40, 40), min_foreground=0.8).transform(_sample(alpha)) for _ in range(50)]
    blind = [AlphaCrop((40, 40)).transform(_sample(alpha)) for _ in range(50)]
    # The windows that hold it are 3 in 100: one of ten tries finds one in a quarter of the cases.
    assert 0.1 < np.mean([r['gt_alpha'].sum() >= 80 for r in held]) < 0.5
    assert np.mean([r['gt_alpha'].sum() >= 80 for r in blind]) < 0.1
    many = AlphaCrop((40, 40), min_foreground=1.0, max_tries=300)
    assert all(many.transform(_sample(alpha))['gt_alpha'].sum() == 100 for _ in range(5))


@pytest.mark.parametrize('size', [(7, 9), (64, 50), (200, 200), (10, 200)], ids=str)
def test_crop__is_a_window_of_the_picture(size: tuple[int, int]) -> None:
    np.random.seed(1)  # noqa: NPY002
    alpha = np.arange(50 * 64, dtype=np.float32).reshape(50, 64) / 4000
    cut = AlphaCrop(size, min_foreground=0.1).transform(_sample(alpha))['gt_alpha']
    assert cut.shape == (min(size[1], 50), min(size[0], 64))
    top, left = np.argwhere(alpha == cut[0, 0])[0]
    np.testing.assert_array_equal(cut, alpha[top : top + cut.shape[0], left : left + cut.shape[1]])


def test_every_transform__one_pixel_and_empty_matte() -> None:
    for transform in (AlphaFlip(1.0), AlphaRotate90(1.0), AlphaCrop((1, 1), min_foreground=1.0)):
        assert transform.transform(_sample(np.zeros((1, 1), np.float32)))['img_shape'] == (1, 1)
    AlphaShiftScaleRotate(prob=1.0).transform(_sample(np.zeros((1, 1), np.float32)))
    empty = AlphaCrop((5, 5), min_foreground=0.5).transform(_sample(np.zeros((9, 9), np.float32)))
    assert empty['img_shape'] == (5, 5)


@pytest.mark.parametrize('name', EVERY)
def test_every_transform__truth_of_another_size(name: str) -> None:
    sample = _sample()
    sample['gt_alpha'] = sample['gt_alpha'][:-1]
    with pytest.raises(ValueError, match='LoadAlpha comes right after LoadImage'):
        EVERY[name].transform(sample)


@pytest.mark.parametrize(
    ('build', 'text'),
    [
        (lambda: AlphaFlip(direction='diagonal'), 'diagonal'),
        (lambda: AlphaFlip(1.5), 'prob=1.5'),
        (lambda: AlphaRotate90(-0.1), 'prob=-0.1'),
        (lambda: AlphaCrop((0, 5)), 'size='),
        (lambda: AlphaCrop((5, 5), max_tries=0), 'max_tries=0'),
        (lambda: AlphaShiftScaleRotate(scale_range=(0, 1)), 'scale_range='),
    ],
)
def test_settings__out_of_range(build: type[BaseTransform], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()
