"""Smoothing over time: less flicker, no ghosts."""

import numpy as np
import pytest

from mmext.apis.temporal import TemporalSmoother

SHAPE = (20, 30)


def still(value: int = 100) -> np.ndarray:
    return np.full((*SHAPE, 3), value, np.uint8)


def test_temporal_smoother__mean_by_hand():
    smoother = TemporalSmoother(0.6)
    first, second = np.full(SHAPE, 0.5, np.float32), np.full(SHAPE, 1.0, np.float32)
    assert np.array_equal(smoother(still(), first), first)
    np.testing.assert_allclose(smoother(still(), second), 0.6 * 0.5 + 0.4 * 1.0, atol=1e-6)
    np.testing.assert_allclose(smoother(still(), second), 0.6 * 0.7 + 0.4, atol=1e-6)


def test_temporal_smoother__flicker_shrinks():
    rng = np.random.default_rng(0)
    smoother = TemporalSmoother()
    alphas = [rng.normal(0.5, 0.1, SHAPE).clip(0, 1).astype(np.float32) for _ in range(30)]
    smooth = [smoother(still(), alpha) for alpha in alphas]
    # A mean of such weights has half the standard deviation.
    assert np.std(smooth[10:]) < 0.6 * np.std(alphas[10:])


def test_temporal_smoother__a_cut_starts_anew():
    smoother = TemporalSmoother()
    smoother(still(100), np.ones(SHAPE, np.float32))
    empty = np.zeros(SHAPE, np.float32)
    assert np.array_equal(smoother(still(180), empty), empty)


@pytest.mark.parametrize('speed', [1, 4])
def test_temporal_smoother__no_ghost_behind_what_moves(speed):
    smoother = TemporalSmoother(0.9)
    for step in range(6):
        image, alpha = still(), np.zeros(SHAPE, np.float32)
        left = speed * step
        image[5:15, left : left + 6] = 220
        alpha[5:15, left : left + 6] = 1
        found = smoother(image, alpha)
    np.testing.assert_allclose(found, alpha, atol=1e-6)


def test_temporal_smoother__slow_change_adds_up():
    smoother = TemporalSmoother(0.9)
    lag = []
    for step in range(60):
        # One grey value a frame is far below the tolerance.
        alpha = np.full(SHAPE, step / 60, np.float32)
        lag.append(float(np.abs(smoother(still(60 + step), alpha) - alpha).max()))
    # A plain running mean would lag nine frames behind.
    assert max(lag) < 5 / 60


def test_temporal_smoother__image_may_be_larger_and_sizes_may_change():
    smoother = TemporalSmoother()
    for shape in ((10, 15), (20, 30)):
        alpha = np.full(shape, 0.3, np.float32)
        np.testing.assert_allclose(smoother(still(), alpha), 0.3, atol=1e-6)


@pytest.mark.parametrize(
    'options', [dict(strength=1.0), dict(strength=-0.1), dict(tolerance=0.0)], ids=str
)
def test_temporal_smoother__refuses_numbers_outside_their_range(options):
    with pytest.raises(ValueError, match='expected 0'):
        TemporalSmoother(**options)
