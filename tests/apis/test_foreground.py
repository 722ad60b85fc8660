"""The estimate of foreground colours: against slow references, and the halo that it is there to remove."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import ndimage

from mmext.apis.compositing import color_backdrop, composite
from mmext.apis.foreground import (
    FEW,
    SIDES,
    blur_fusion,
    estimate_foreground,
    multilevel,
    own_colors,
)
from mmext.apis.memory import in_fresh_process, peak_on_cpu

SIZE = (96, 120)
GREEN, RED = (0, 255, 0), (255, 0, 0)
# Mean excess of green over the true picture at soft edges, in 255 grey values.
HALO_LEFT, HALO_SEEN = 5.0, 20.0
# pymatting compiles for a minute when it is imported for the first time.
BOTH = ['blur', pytest.param('ml', marks=pytest.mark.slow)]


def soft_disc(size: tuple[int, int] = SIZE) -> np.ndarray:
    """An alpha whose edge is ten pixels wide."""
    y, x = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(y - size[0] / 2, x - size[1] / 2)
    return ((size[0] / 3 - distance) / 10 + 0.5).clip(0, 1).astype(np.float32)


def skin(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Foreground colours with little green that change slowly, (H, W, 3)."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [180 + 40 * np.sin(x / 25), 60 + 20 * np.cos(y / 20), 90 + 30 * np.sin((x + y) / 30)]
    return np.stack(waves, axis=2)


def green_screen() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo before a green screen, its alpha, and the true colours of its foreground."""
    alpha, colors = soft_disc(), skin()
    share = alpha[..., None]
    photo = np.rint(share * colors + (1 - share) * GREEN).astype(np.uint8)
    return photo, alpha, colors


def halo(method: str) -> float:
    """What is left of the green when the cut-out lies on red."""
    photo, alpha, colors = green_screen()
    estimate = estimate_foreground(photo, alpha, method)
    found = composite(estimate, alpha, color_backdrop(RED, alpha.shape[1])).astype(float)
    share = alpha[..., None]
    true = share * colors + (1 - share) * RED
    soft = (alpha > 0) & (alpha < 1)
    return float(np.maximum(found - true, 0)[soft][:, 1].mean())


@pytest.mark.parametrize('method', BOTH)
def test_halo__estimate_leaves_no_green(method):
    assert halo(method) < HALO_LEFT


def test_halo__own_colours_keep_it():
    assert halo('none') > HALO_SEEN


@pytest.mark.parametrize('method', [*BOTH, 'none'])
def test_estimate_foreground__opaque_pixels_keep_their_colour(method):
    photo, alpha, _ = green_screen()
    estimate = estimate_foreground(photo, alpha, method)
    assert np.array_equal(estimate[alpha == 1], photo[alpha == 1])
    assert estimate.dtype == np.uint8


@pytest.mark.parametrize('method', [*BOTH, 'none'])
@pytest.mark.parametrize('size', [(1, 1), (1, 7), (9, 1), (3, 2)], ids=str)
def test_estimate_foreground__smallest_images(method, size):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for value in (0, 0.5, 1):
        alpha = np.full(size, value, np.float32)
        estimate = estimate_foreground(photo, alpha, method)
        assert estimate.shape == photo.shape
        if value == 1:
            assert np.array_equal(estimate, photo)
        if value == 0:
            assert not estimate.any()


@pytest.mark.parametrize('method', [*BOTH, 'none'])
def test_estimate_foreground__nothing_of_the_background_far_from_the_foreground(method):
    rng = np.random.default_rng(1)
    photo = rng.integers(1, 256, (60, 300, 3), dtype=np.uint8)
    alpha = np.zeros((60, 300), np.float32)
    alpha[20:40, 20:40] = 0.7
    assert not estimate_foreground(photo, alpha, method)[:, 150:].any()


def slow_fusion(photo: np.ndarray, alpha: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """The two equations of the source in float64 on the whole image, with scipy's means."""

    def mean(values: np.ndarray, side: int) -> np.ndarray:
        return ndimage.uniform_filter(values, (side, side, 1), mode='mirror')

    own = photo.astype(np.float64)
    share = alpha.astype(np.float64)[..., None]
    front = back = own
    for side in sides:
        mean_share = mean(share, side)
        mean_front = mean(front * share, side) / (mean_share + FEW)
        mean_back = mean(back * (1 - share), side) / (1 - mean_share + FEW)
        error = own - share * mean_front - (1 - share) * mean_back
        front, back = (mean_front + share * error).clip(0, 255), mean_back
    return front


@pytest.mark.parametrize('sides', [SIDES, (9, 3), (5,)], ids=str)
def test_blur_fusion__is_the_slow_one(sides):
    rng = np.random.default_rng(2)
    photo = rng.integers(0, 256, (70, 150, 3), dtype=np.uint8)
    alpha = ndimage.gaussian_filter(rng.random((70, 150)), 3)
    alpha = ((alpha - 0.45) * 8).clip(0, 1).astype(np.float32)
    alpha[:, :20] = 0
    found = blur_fusion(photo, alpha, sides=sides, chunk_pixels=2000)
    # Rounded: half a grey value, and what float32 adds.
    np.testing.assert_allclose(found, slow_fusion(photo, alpha, sides), atol=0.51)


def test_blur_fusion__memory_beyond_the_result_depends_on_the_piece():
    photo = np.zeros((800, 250, 3), np.uint8)
    alpha = np.full((800, 250), 0.5, np.float32)
    peaks = []
    for height in (400, 800):
        tracemalloc.start()
        blur_fusion(photo[:height], alpha[:height], sides=(9, 3), chunk_pixels=2**13)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The result has 3 bytes a pixel, the search for the foreground 1.
    assert peaks[1] - peaks[0] < 5 * 400 * 250


@pytest.mark.slow
def test_multilevel__a_reduced_estimate_is_near_the_full_one():
    photo, alpha, colors = green_screen()
    soft = (alpha > 0.05) & (alpha < 1)
    full, reduced = multilevel(photo, alpha), multilevel(photo, alpha, max_pixels=2000)
    errors = [np.abs(found - colors)[soft].mean() for found in (full, reduced, photo)]
    assert errors[0] < 6 and errors[1] < 10 and errors[2] > 40


def estimate_in_two_threads() -> int:
    """How many estimates were made."""
    photo, alpha, _ = green_screen()
    with ThreadPoolExecutor(2) as pool:
        return len(list(pool.map(lambda _: multilevel(photo, alpha), range(8))))


@pytest.mark.slow
def test_multilevel__threads_of_numba_itself_are_used_by_one_photo_at_a_time():
    # A fresh process has no OpenMP in numba, as wheels for macOS: two photos at once would end it.
    assert in_fresh_process(estimate_in_two_threads) == 8


def peak_of_second_estimate() -> int:
    photo, alpha, _ = green_screen()
    multilevel(photo, alpha)
    return peak_on_cpu(lambda: multilevel(photo, alpha))


@pytest.mark.slow
def test_multilevel__memory_can_be_measured():
    # With numba's OpenMP the fork of the measurement would not survive the first estimate.
    assert in_fresh_process(peak_of_second_estimate) >= 0


def test_own_colors__black_where_nothing_is_seen():
    photo = np.full((2, 2, 3), 200, np.uint8)
    alpha = np.array([[0, 0.1], [0.5, 1]], np.float32)
    assert own_colors(photo, alpha)[..., 0].tolist() == [[0, 200], [200, 200]]


def test_estimate_foreground__refuses_what_does_not_fit():
    photo, alpha, _ = green_screen()
    with pytest.raises(ValueError, match="got 'deep', expected one of ml, blur, none"):
        estimate_foreground(photo, alpha, 'deep')
    with pytest.raises(ValueError, match='guided_upsample'):
        estimate_foreground(photo, alpha[:-1], 'blur')
    with pytest.raises(ValueError, match=r'expected \[0, 1\]'):
        estimate_foreground(photo, alpha * 255, 'blur')
