"""New backgrounds, exposure, blur, compression: by their formulas, and without a halo where the colours are known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mmext.datasets.transforms import (
    BrightnessContrast,
    CompositeBackground,
    RandomBlur,
    RandomJPEG,
)
from mmext.datasets.transforms.composite import composite, gradient, noise, plain

GENERATOR = np.random.default_rng(0)
ALPHA = GENERATOR.random((30, 40), np.float32)
IMAGE = GENERATOR.integers(0, 256, (30, 40, 3), dtype=np.uint8)
MAKERS = {'plain': plain, 'gradient': gradient, 'noise': noise}


def _sample(**fields: object) -> dict:
    return {'img': IMAGE.copy(), 'gt_alpha': ALPHA.copy(), 'alpha_fields': ['gt_alpha']} | fields


def _run(transform: object, seed: int = 0, **fields: object) -> dict:
    np.random.seed(seed)  # noqa: NPY002
    return transform.transform(_sample(**fields))


def test_composite__is_the_formula() -> None:
    alpha = ALPHA.copy()
    alpha[0], alpha[1] = 0, 1
    background = IMAGE[::-1].copy()
    exact = alpha[..., None] * IMAGE.astype(float) + (1 - alpha[..., None]) * background
    result = composite(IMAGE, background, alpha)
    assert np.abs(result - exact).max() <= 0.51
    np.testing.assert_array_equal(result[0], background[0])
    np.testing.assert_array_equal(result[1], IMAGE[1])


@pytest.mark.parametrize('shape', [(256, 200), (1, 1), (1, 9), (37, 3)], ids=str)
@pytest.mark.parametrize('kind', MAKERS)
def test_backgrounds__differ_and_fill_the_picture(kind: str, shape: tuple[int, int]) -> None:
    images = [MAKERS[kind](np.random.default_rng(seed), shape) for seed in (0, 0, 1)]
    for image in images:
        assert image.shape == (*shape, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).mean() > 0.5
    if shape == (256, 200):
        spread = images[0].reshape(-1, 3).std(0).max()
        assert (spread == 0) if kind == 'plain' else (spread > 5)


def test_background__known_colours_leave_no_halo() -> None:
    """A red thing before green: of its own colours nothing is green, of the photo its edge is."""
    red, green = np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40, 3), np.uint8)
    red[..., 2], green[..., 1] = 200, 255
    photo = composite(red, green, ALPHA)
    transform = CompositeBackground(1.0, kinds=['plain'])
    known = _run(transform, img=photo, foreground=red)
    unknown = _run(transform, img=photo)
    blank = _run(transform, img=photo, gt_alpha=np.zeros_like(ALPHA))['img']
    expected = composite(red, blank, ALPHA)
    assert 'foreground' not in known
    np.testing.assert_array_equal(known['img'], expected)
    halo = unknown['img'][..., 1].astype(int) - expected[..., 1]
    assert halo[(ALPHA > 0.3) & (ALPHA < 0.7)].min() > 40


def test_background__from_a_folder(tmp_path: Path) -> None:
    (tmp_path / 'deep').mkdir()
    Image.new('RGB', (9, 300), (10, 20, 30)).save(tmp_path / 'deep' / 'a.png')
    Image.new('L', (1, 1), 77).save(tmp_path / 'b.png')
    transform = CompositeBackground(1.0, kinds=['folder'], folder=str(tmp_path))
    zero = np.zeros_like(ALPHA)
    seen = {tuple(_run(transform, seed, gt_alpha=zero)['img'][3, 4]) for seed in range(20)}
    assert seen == {(30, 20, 10), (77, 77, 77)}


def test_background__by_probability_and_seed() -> None:
    alone = _run(CompositeBackground(0.0), foreground=IMAGE[::-1])
    np.testing.assert_array_equal(alone['img'], IMAGE)
    assert 'foreground' not in alone
    transform = CompositeBackground(0.5)
    first = [_run(transform, seed)['img'] for seed in range(20)]
    again = [_run(CompositeBackground(0.5), seed)['img'] for seed in range(20)]
    np.testing.assert_array_equal(first, again)
    assert 4 < sum(np.array_equal(image, IMAGE) for image in first) < 16


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        ({'kinds': ['forest']}, "kinds=\\['forest'\\]; expected some of"),
        ({'kinds': []}, 'expected some of'),
        ({'kinds': ['folder']}, 'go together'),
        ({'folder': '.'}, 'go together'),
        ({'kinds': ['folder'], 'folder': 'no such folder'}, 'holds no images'),
        ({'prob': 2}, 'prob=2'),
    ],
)
def test_background__wrong_settings(settings: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CompositeBackground(**settings)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ({'gt_alpha': ALPHA[1:]}, 'LoadAlpha comes right after LoadImage'),
        ({'foreground': IMAGE[1:]}, 'got foreground of'),
        ({'alpha_fields': []}, 'got no gt_alpha'),
    ],
    ids=['alpha of another size', 'foreground of another size', 'no alpha'],
)
def test_background__samples_that_do_not_fit(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _run(CompositeBackground(1.0), **change)


def test_brightness_contrast__is_the_formula() -> None:
    transform = BrightnessContrast(brightness=0.3, contrast=0.5, prob=1.0)
    np.random.seed(4)  # noqa: NPY002
    added, factor = transform.draw_change()
    assert abs(added) <= 76.5 and 0.5 <= factor <= 1.5
    grey = np.asarray(Image.fromarray(IMAGE[..., ::-1]).convert('L')).mean()
    expected = (grey + factor * (IMAGE - grey) + added).clip(0, 255)
    assert np.abs(_run(transform, 4)['img'] - expected).max() < 0.6


def test_blur__is_gaussian_and_leaves_the_matte() -> None:
    results = _run(RandomBlur(sigma=(1.2, 1.2), prob=1.0))
    expected = ndimage.gaussian_filter(IMAGE.astype(float), (1.2, 1.2, 0), mode='mirror')
    assert np.abs(results['img'] - expected).max() < 2
    np.testing.assert_array_equal(results['gt_alpha'], ALPHA)


def test_jpeg__worse_quality_worse_picture() -> None:
    smooth = ndimage.gaussian_filter(IMAGE, (3, 3, 0))
    errors = []
    for quality in (95, 30, 5):
        results = _run(RandomJPEG((quality, quality), prob=1.0), img=smooth)
        assert results['img'].shape == smooth.shape and results['img'].dtype == np.uint8
        errors.append(np.abs(results['img'].astype(int) - smooth).mean())
    assert 0 < errors[0] < errors[1] < errors[2] < 20


@pytest.mark.parametrize(
    'transform',
    [BrightnessContrast(prob=0), RandomBlur(prob=0), RandomJPEG(prob=0)],
    ids=['contrast', 'blur', 'jpeg'],
)
def test_degrading__never_at_probability_0(transform: object) -> None:
    np.testing.assert_array_equal(_run(transform)['img'], IMAGE)


@pytest.mark.parametrize(
    ('build', 'text'),
    [
        (lambda: RandomJPEG((0, 90)), 'quality='),
        (lambda: RandomJPEG((90, 40)), 'quality='),
        (lambda: RandomBlur((0, 1)), 'sigma='),
        (lambda: BrightnessContrast(contrast=1.5), 'contrast=1.5'),
    ],
)
def test_degrading__wrong_settings(build: type, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()
