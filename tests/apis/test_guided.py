"""Guided upsampling against the formula, pixel by pixel."""

import numpy as np
import pytest

from mmext.apis.guided import guided_upsample
from mmext.apis.rows import RowUpsampler, row_chunks


def bilinear(low: np.ndarray, y: int, x: int, size: tuple[int, int]) -> float:
    """One pixel of the enlarged map, from the four around it."""
    total = 0.0
    for axis_weights_y, iy in weights(y, low.shape[0], size[0]):
        for axis_weights_x, ix in weights(x, low.shape[1], size[1]):
            total += axis_weights_y * axis_weights_x * low[iy, ix]
    return total


def weights(index: int, num_low: int, num_full: int) -> list[tuple[float, int]]:
    position = (index + 0.5) * num_low / num_full - 0.5
    first = int(np.floor(position))
    share = position - first
    inside = [min(max(own, 0), num_low - 1) for own in (first, first + 1)]
    return [(1 - share, inside[0]), (share, inside[1])]


def reference(alpha: np.ndarray, grey: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """The fast guided filter by its definition; `grey` is an integer multiple as large as `alpha`."""
    height, width = alpha.shape
    factor = grey.shape[0] // height
    blocks = grey.reshape(height, factor, width, factor).mean(axis=(1, 3))
    guide = np.rint(blocks) / 255
    slope, offset = np.zeros_like(guide), np.zeros_like(guide)
    for y in range(height):
        for x in range(width):
            near = [
                (min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1))
                for dy in range(-radius, radius + 1)
                for dx in range(-radius, radius + 1)
            ]
            guides = np.array([guide[place] for place in near])
            alphas = np.array([alpha[place] for place in near], np.float64)
            covariance = (guides * alphas).mean() - guides.mean() * alphas.mean()
            slope[y, x] = covariance / (guides.var() + epsilon)
            offset[y, x] = alphas.mean() - slope[y, x] * guides.mean()
    full = np.zeros(grey.shape)
    for y in range(grey.shape[0]):
        for x in range(grey.shape[1]):
            own = [bilinear(low, y, x, grey.shape) for low in (slope, offset)]
            full[y, x] = own[0] * grey[y, x] / 255 + own[1]
    return full.clip(0, 1)


def make_pair(shape: tuple[int, int], factor: int) -> tuple[np.ndarray, np.ndarray]:
    """An alpha and a grey image `factor` times as large."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (shape[0] * factor, shape[1] * factor), dtype=np.uint8)
    return rng.random(shape, np.float32), grey


@pytest.mark.parametrize('radius', [1, 2])
@pytest.mark.parametrize('shape', [(5, 7), (1, 4), (1, 1)], ids=str)
def test_guided_upsample__is_the_formula(shape, radius):
    alpha, grey = make_pair(shape, 3)
    image = np.repeat(grey[..., None], 3, axis=2)
    full = guided_upsample(alpha, image, radius=radius, epsilon=1e-2)
    expected = reference(alpha, grey, radius, 1e-2)
    np.testing.assert_allclose(full, expected, atol=2e-5)


@pytest.mark.parametrize('chunk_pixels', [1, 40, 100])
def test_guided_upsample__pieces_equal_the_whole(chunk_pixels):
    rng = np.random.default_rng(1)
    alpha = rng.random((9, 6), np.float32)
    image = rng.integers(0, 256, (31, 17, 3), dtype=np.uint8)
    pieces = guided_upsample(alpha, image, chunk_pixels=chunk_pixels)
    assert np.array_equal(pieces, guided_upsample(alpha, image, chunk_pixels=10**6))


def test_guided_upsample__an_edge_of_the_image_sharpens_the_edge_of_alpha():
    true = np.zeros((96, 96), np.float32)
    true[:, 43:] = 1
    image = np.repeat((60 + 120 * true).astype(np.uint8)[..., None], 3, axis=2)
    low = true.reshape(12, 8, 12, 8).mean(axis=(1, 3))
    bilinear_error = np.abs(RowUpsampler(low, true.shape).rows(0, 96) - true).mean()
    guided_error = np.abs(guided_upsample(low, image) - true).mean()
    assert guided_error < 0.1 * bilinear_error


@pytest.mark.parametrize(
    ('low', 'full'), [((20, 30), (20, 30)), ((64, 64), (5, 9)), ((64, 8), (5, 90))], ids=str
)
def test_guided_upsample__any_size_becomes_that_of_the_image(low, full):
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (*full, 3), dtype=np.uint8)
    for value in (0, 1):
        alpha = np.full(low, value, np.float32)
        found = guided_upsample(alpha, image)
        assert found.shape == full and found.dtype == np.float32
        # OpenCV's means in float32 are that good.
        np.testing.assert_allclose(found, value, atol=1e-4)
        assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize(
    ('alpha', 'message'),
    [
        (np.zeros((4, 4)), r'float64, expected \(H, W\) float32'),
        (np.zeros((4, 4, 1), np.float32), 'shape'),
        (np.zeros((0, 4), np.float32), 'shape'),
        (np.full((4, 4), 255, np.float32), 'divide 8-bit values by 255'),
        (np.full((4, 4), np.nan, np.float32), 'nan'),
    ],
    ids=['float64', 'three axes', 'empty', 'bytes', 'nan'],
)
def test_guided_upsample__refuses_what_is_no_alpha(alpha, message):
    with pytest.raises(ValueError, match=message):
        guided_upsample(alpha, np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize('image', [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3))], ids=str)
def test_guided_upsample__refuses_what_is_no_image(image):
    with pytest.raises(ValueError, match='expected .H, W, 3. uint8'):
        guided_upsample(np.zeros((4, 4), np.float32), image)


@pytest.mark.parametrize('channels', [(), (3,)], ids=['map', 'colours'])
def test_row_upsampler__any_rows_are_bilinear(channels):
    low = np.random.default_rng(3).random((3, 4, *channels), np.float32)
    upsampler = RowUpsampler(low, (7, 11))
    rows = upsampler.rows(2, 5)
    for y in range(2, 5):
        for x in range(11):
            np.testing.assert_allclose(rows[y - 2, x], bilinear(low, y, x, (7, 11)), atol=1e-6)


def test_row_chunks__cover_all_rows_once():
    chunks = list(row_chunks(3, 20, 10, 45))
    assert chunks == [(3, 7), (7, 11), (11, 15), (15, 19), (19, 20)]
    assert list(row_chunks(0, 2, 10, 1)) == [(0, 1), (1, 2)]
