"""Boundaries against hand arithmetic and against erosion of the whole image by scipy."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from mmext.evaluation.boundary import boundary_ious, boundary_rle, boundary_width, mask_boundary


def encode(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def rectangle(size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    image = np.zeros(size, dtype=bool)
    image[rows, columns] = True
    return image


def slow_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Erosion of the whole image by a square, with zeros all around it."""
    square = np.ones((2 * width + 1, 2 * width + 1), dtype=bool)
    return mask & ~ndimage.binary_erosion(mask, square, border_value=0)


def blobs(seed: int, size: tuple[int, int], share: float = 0.4) -> np.ndarray:
    """Smooth random shapes with holes, many of them cut by the image's edge."""
    noise = np.random.default_rng(seed).random(size)
    smooth = ndimage.gaussian_filter(noise, 5)
    return smooth > np.quantile(smooth, 1 - share)


@pytest.mark.parametrize(
    ('size', 'width'),
    [((640, 640), 18), ((480, 640), 16), ((1080, 1920), 44), ((10, 10), 1), ((24, 32), 1)],
    ids=str,
)
def test_boundary_width__two_percent_of_the_diagonal_and_at_least_one(size, width):
    # 0.02 * 905.1, 0.02 * 800, 0.02 * 2202.9, 0.02 * 14.1, 0.02 * 40
    assert boundary_width(size) == width


def test_mask_boundary__frame_of_a_square():
    # 12 x 12 pixels, 3 wide: all but the inner 6 x 6.
    boundary = mask_boundary(np.ones((12, 12), dtype=bool), 3)
    assert boundary.sum() == 12**2 - 6**2
    assert not boundary[3:9, 3:9].any()


@pytest.mark.parametrize('side', [6, 7], ids=['nothing left', 'one pixel left'])
def test_mask_boundary__small_object_is_all_boundary(side):
    boundary = mask_boundary(np.ones((side, side + 5), dtype=bool), 3)
    assert (~boundary).sum() == (0 if side == 6 else 1 * (side + 5 - 6))


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('ratio', [0.005, 0.02, 0.05])
def test_boundary_rle__equals_erosion_of_the_whole_image(seed, ratio):
    mask = blobs(seed, (90, 130))
    expected = slow_boundary(mask, boundary_width(mask.shape, ratio))
    assert 0 < expected.sum() < mask.sum()
    np.testing.assert_array_equal(coco_mask.decode(boundary_rle(encode(mask), ratio)), expected)


def test_boundary_rle__edge_of_the_image_is_boundary():
    # The whole image of 100 x 100: a frame 3 pixels wide.
    rle = boundary_rle(encode(np.ones((100, 100), dtype=bool)))
    assert boundary_width((100, 100)) == 3
    assert coco_mask.area(rle) == 100**2 - 94**2


def test_boundary_ious__shifted_square_by_hand():
    # Squares of 40 x 40 in 100 x 100, one two columns further right. Boundaries 3 wide: frames of 40^2 - 34^2 = 444.
    # Each frame without its two vertical bars has 2 * 3 rows; the frames share, over the common 38 columns:
    # rows outside the inner band (6 of them) all 38; in the 34 inner rows columns 2 of the left bars {0,1,2} and
    # {2,3,4} share one, the right bars {37,38,39} and {39,40,41} share one.
    rows = slice(20, 60)
    left = rectangle((100, 100), rows, slice(20, 60))
    right = rectangle((100, 100), rows, slice(22, 62))
    shared = 6 * 38 + 34 * 2
    expected = shared / (2 * 444 - shared)
    ious = boundary_ious([encode(left)], [encode(right), encode(left)])
    np.testing.assert_allclose(ious, [[expected, 1.0]], rtol=1e-12)
    mask_iou = coco_mask.iou([encode(left)], [encode(right)], [False])
    assert ious[0, 0] < 0.6 * mask_iou[0, 0]


def test_boundary_ious__equals_whole_images_for_all_pairs():
    masks = [blobs(seed, (70, 90), share) for seed, share in ((0, 0.4), (1, 0.2), (2, 0.7))]
    width = boundary_width((70, 90))
    slow = [slow_boundary(mask, width) for mask in masks]
    expected = [[(a & b).sum() / (a | b).sum() for b in slow] for a in slow]
    rles = [encode(mask) for mask in masks]
    np.testing.assert_allclose(boundary_ious(rles, rles), expected, rtol=1e-12)


@pytest.mark.parametrize('num', [(0, 2), (2, 0), (0, 0)], ids=str)
def test_boundary_ious__nothing_on_one_side(num):
    rles = [encode(np.ones((8, 8), dtype=bool))] * 2
    assert boundary_ious(rles[: num[0]], rles[: num[1]]).shape == num


def test_boundary_ious__empty_mask_meets_nothing():
    full, empty = np.ones((8, 8), dtype=bool), np.zeros((8, 8), dtype=bool)
    ious = boundary_ious([encode(empty), encode(full)], [encode(full), encode(empty)])
    np.testing.assert_array_equal(ious, [[0, 0], [1, 0]])
