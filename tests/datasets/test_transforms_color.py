"""HSV against colour arithmetic of the standard library."""

import colorsys

import numpy as np
import pytest

from mmext.datasets.transforms import HSV


def _with_gains(turn: float, saturation: float, value: float, image: np.ndarray) -> np.ndarray:
    transform = HSV(hue=1.0, saturation=1.0, value=1.0)
    transform.draw_gains = lambda: np.array([turn, saturation, value])
    return transform({'img': image})['img']


@pytest.mark.parametrize(
    ('turn', 'saturation', 'value'),
    [(0, 1, 1), (0, 0.5, 1), (0, 1.4, 1), (0, 1, 0.6), (0, 1, 1.3), (0.25, 1, 1), (-0.1, 0.8, 0.9)],
)
def test_hsv__agrees_with_colorsys(turn, saturation, value):
    image = np.random.default_rng(0).integers(30, 226, (6, 7, 3), dtype=np.uint8)
    result = _with_gains(turn, saturation, value, image)
    for bgr, changed in zip(image.reshape(-1, 3), result.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(bgr[::-1] / 255))
        expected = colorsys.hsv_to_rgb((h + turn) % 1, min(s * saturation, 1), min(v * value, 1))
        # 8-bit hue has steps of two degrees: up to 8 levels of a strong colour.
        assert np.abs(changed[::-1] - np.array(expected) * 255).max() <= 9


def test_hsv__grey_stays_grey():
    np.random.seed(0)  # noqa: NPY002
    image = np.repeat(np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5, 1), 3, axis=2)
    result = HSV(hue=0.5, saturation=0.9, value=0.4)({'img': image})['img']
    assert (result == result[..., :1]).all()
    assert (result != image).any()


def test_hsv__gains_lie_in_their_ranges():
    np.random.seed(0)  # noqa: NPY002
    transform = HSV()
    gains = np.array([transform.draw_gains() for _ in range(500)])
    assert (np.abs(gains - (0, 1, 1)).max(axis=0) <= (0.015, 0.7, 0.4)).all()
    assert (np.abs(gains - (0, 1, 1)).max(axis=0) > (0.014, 0.67, 0.38)).all()


@pytest.mark.parametrize(
    'image',
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)],
    ids=['grey', 'float', 'four channels'],
)
def test_hsv__wrong_image(image):
    with pytest.raises(ValueError, match='uint8'):
        HSV()({'img': image})


def test_hsv__wrong_settings():
    with pytest.raises(ValueError, match='value=2'):
        HSV(value=2)
