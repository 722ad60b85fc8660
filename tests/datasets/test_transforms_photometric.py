"""PhotometricDistortion: each step against its formula, and how often each runs."""

import colorsys
from collections import Counter

import numpy as np
import pytest

from mmext.datasets.transforms import PhotometricDistortion

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)  # BGR
GREY = IMAGE[..., ::-1].astype(float) @ (0.299, 0.587, 0.114)


def _changed(*steps: tuple) -> np.ndarray:
    transform = PhotometricDistortion()
    transform.draw_steps = lambda: list(steps)
    return transform({'img': IMAGE.copy()})['img'].astype(float)


@pytest.mark.parametrize(
    ('step', 'expected'),
    [
        (('brightness', 1.1), IMAGE * 1.1),
        (('contrast', 0.6), 0.4 * np.round(GREY.mean()) + 0.6 * IMAGE),
        (('saturation', 1.4), -0.4 * GREY[..., None] + 1.4 * IMAGE),
        (('channels', [2, 0, 1]), IMAGE[..., [2, 0, 1]]),
    ],
    ids=['brightness', 'contrast', 'saturation', 'channels'],
)
def test_photometric__formula(step, expected):
    assert np.abs(_changed(step) - np.clip(expected, 0, 255)).max() <= 1.5


def test_photometric__hue():
    changed = _changed(('hue', 0.05))
    for pixel, result in zip(IMAGE.reshape(-1, 3), changed.reshape(-1, 3), strict=True):
        blue, green, red = pixel / 255
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        wanted = colorsys.hsv_to_rgb((hue + 0.05) % 1, saturation, value)
        # 1/256 of the circle are 6 of 256 values. The hue is rounded before and after the turn, 3 each; the turn
        # from 12.8 to 13 steps, 1.2; saturation and the result, 1 each.
        assert np.abs(result[::-1] / 255 - wanted).max() < 9.2 / 255


def test_photometric__steps_run_one_after_the_other():
    both = _changed(('brightness', 1.1), ('channels', [2, 1, 0]))
    assert (both == _changed(('brightness', 1.1))[..., ::-1]).all()


def test_photometric__draws():
    np.random.seed(0)  # noqa: NPY002
    transform = PhotometricDistortion(prob=0.3)
    drawn = [transform.draw_steps() for _ in range(1500)]
    counts = Counter(name for steps in drawn for name, _ in steps)
    # .3 of 1500, deviation 18.
    assert all(counts[name] == pytest.approx(450, abs=60) for name in transform.limits)
    assert counts['hue'] == pytest.approx(450, abs=60)
    values = {name: [v for steps in drawn for n, v in steps if n == name] for name in counts}
    for name, low, high in [
        ('brightness', 0.875, 1.125),
        ('contrast', 0.5, 1.5),
        ('saturation', 0.5, 1.5),
        ('hue', -0.05, 0.05),
    ]:
        margin = 0.02 * (high - low)
        assert low <= min(values[name]) < low + margin
        assert high - margin < max(values[name]) <= high
    assert len({tuple(order) for order in values['channels']}) == 6
    names = [[name for name, _ in steps] for steps in drawn]
    orders = Counter(
        n.index('contrast') < n.index('hue') for n in names if {'contrast', 'hue'} <= set(n)
    )
    assert 0.4 < orders[True] / orders.total() < 0.6
    assert all(n.index('brightness') == 0 for n in names if 'brightness' in n)
    assert all(n[-1] == 'channels' for n in names if 'channels' in n)


def test_photometric__never_changes_with_probability_0():
    results = PhotometricDistortion(prob=0)({'img': IMAGE})
    assert results['img'] is IMAGE


def test_photometric__floats_are_refused():
    with pytest.raises(ValueError, match='uint8'):
        PhotometricDistortion()({'img': IMAGE.astype(np.float32)})
