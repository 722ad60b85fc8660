"""Alpha pictures, RGBA and new backgrounds."""

import numpy as np
import pytest

from mmext.apis.compositing import (
    alpha_picture,
    blur_backdrop,
    color_backdrop,
    composite,
    from_light,
    image_backdrop,
    straight_rgba,
    to_light,
)


def random_cut(shape: tuple[int, int] = (33, 47)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    foreground = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    alpha = (rng.random(shape) * 1.4 - 0.2).clip(0, 1).astype(np.float32)
    return foreground, alpha


def light_of(value: float) -> float:
    """IEC 61966-2-1, of one value in [0, 1]."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize('backdrop', ['color', 'image'])
def test_rgba__over_a_background_is_the_composite(backdrop):
    foreground, alpha = random_cut()
    if backdrop == 'color':
        own = color_backdrop((200, 10, 90), alpha.shape[1])
    else:
        noise = np.random.default_rng(1).integers(0, 256, (20, 60, 3), dtype=np.uint8)
        own = image_backdrop(noise, alpha.shape)
    rgba = straight_rgba(foreground, alpha).astype(float)
    share = rgba[..., 3:] / 255
    again = share * rgba[..., :3] + (1 - share) * own(0, alpha.shape[0])
    direct = composite(foreground, alpha, own)
    assert np.abs(np.rint(again) - direct).max() <= 1
    assert np.array_equal(rgba[..., :3], foreground)


def test_composite__by_hand():
    foreground = np.array([[[100, 0, 255]]], np.uint8)
    alpha = np.array([[0.25]], np.float32)
    found = composite(foreground, alpha, color_backdrop((200, 100, 1), 1))
    assert found.tolist() == [[[175, 75, 64]]]  # 64.5 to even


def test_composite__linear_light_mixes_light():
    foreground, alpha = random_cut((5, 7))
    backdrop = color_backdrop((30, 200, 0), 7)
    found = composite(foreground, alpha, backdrop, linear_light=True)
    for place in np.ndindex(5, 7, 3):
        share = float(alpha[place[:2]])
        back = (30, 200, 0)[place[2]]
        light = share * light_of(foreground[place] / 255) + (1 - share) * light_of(back / 255)
        # The value whose light is nearest to it, on the scale of sRGB.
        scale = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
        assert abs(found[place] - 255 * scale) < 0.51


def test_light__every_value_comes_back():
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(from_light(to_light(values)), values)


@pytest.mark.parametrize(('bits', 'values'), [(8, [0, 51, 255]), (16, [0, 13107, 65535])])
def test_alpha_picture__scale(bits, values):
    picture = alpha_picture(np.array([[0, 0.2, 1]], np.float32), bits)
    assert picture.tolist() == [values]
    assert picture.dtype == f'uint{bits}'


def test_alpha_picture__refuses_other_depths():
    with pytest.raises(ValueError, match='got 12, expected 8 or 16'):
        alpha_picture(np.zeros((1, 1), np.float32), 12)


@pytest.mark.parametrize('size', [(10, 40), (40, 10), (100, 80), (1, 1)], ids=str)
def test_image_backdrop__covers_the_whole_from_the_middle(size):
    # Its brightness says where a pixel comes from.
    y, x = np.mgrid[:60, :80]
    pixels = np.stack([y * 4, x * 3, 0 * x], axis=2).astype(np.uint8)
    covered = image_backdrop(pixels, size)(0, size[0])
    assert covered.shape == (*size, 3)
    middle = covered.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(middle, pixels.reshape(-1, 3).mean(axis=0), atol=2.5)
    scale = max(size[0] / 60, size[1] / 80)
    if size != (1, 1):
        spans = [float(np.ptp(covered[..., channel])) for channel in (0, 1)]
        expected = [4 * (size[0] - 1) / scale, 3 * (size[1] - 1) / scale]
        np.testing.assert_allclose(spans, expected, atol=6)


def test_blur_backdrop__the_foreground_does_not_glow():
    image = np.full((80, 100, 3), 40, np.uint8)
    alpha = np.zeros((80, 100), np.float32)
    image[20:60, 30:70] = 250
    alpha[20:60, 30:70] = 1
    blurred = blur_backdrop(image, alpha, 0.03)(0, 80)
    assert blurred.shape == image.shape
    assert np.abs(blurred[alpha == 0] - 40).max() < 3


def test_blur_backdrop__blurs_and_needs_no_background():
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (40, 1100, 3), dtype=np.uint8)
    for value in (0, 1):
        blurred = blur_backdrop(noise, np.full((40, 1100), value, np.float32))(5, 9)
        assert blurred.shape == (4, 1100, 3)
        assert np.isfinite(blurred).all() and blurred.std() < 10


@pytest.mark.parametrize('blur', [0, -1, 2, float('nan')])
def test_blur_backdrop__refuses_other_strengths(blur):
    with pytest.raises(ValueError, match='expected a share of the longer side'):
        blur_backdrop(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32), blur)
