"""Run lengths against pycocotools on whole images."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmext.structures.rle import decode_roi, encode_roi, run_lengths

SIZE = (20, 30)


def blob(rows: slice, columns: slice, density: float = 1.0) -> np.ndarray:
    """An image with random pixels inside a rectangle."""
    image = np.zeros(SIZE, dtype=bool)
    own = image[rows, columns]
    own[:] = np.random.default_rng(0).random(own.shape) < density
    return image


MASKS = {
    'inside': blob(slice(3, 11), slice(4, 19)),
    'holes': blob(slice(3, 11), slice(4, 19), 0.5),
    'whole image': blob(slice(None), slice(None)),
    'full height': blob(slice(None), slice(5, 9)),
    'top to bottom with holes': blob(slice(None), slice(5, 9), 0.7),
    'first pixel': blob(slice(0, 1), slice(0, 1)),
    'last pixel': blob(slice(19, 20), slice(29, 30)),
    'foot of a column and head of the next': blob(slice(18, 20), slice(5, 6))
    | blob(slice(0, 2), slice(6, 7)),
    'two parts far apart': blob(slice(2, 4), slice(2, 4)) | blob(slice(15, 18), slice(25, 28)),
}


@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
def test_decode_roi__equals_the_crop_of_the_whole_image(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    roi = decode_roi(rle)
    x, y, columns, rows = coco_mask.toBbox(rle).astype(int)
    assert (roi.x1, roi.y1, roi.mask.shape) == (x, y, (rows, columns))
    np.testing.assert_array_equal(roi.mask, mask[y : y + rows, x : x + columns])


@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
def test_encode_roi__writes_what_decode_roi_has_read(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_roi(*decode_roi(rle), SIZE) == rle


@pytest.mark.parametrize('rows', [1, 7, SIZE[0]], ids=['one-row', 'some-rows', 'full-height'])
@pytest.mark.parametrize('density', [0.0, 0.1, 0.5, 0.9, 1.0])
def test_encode_roi__equals_pycocotools_on_the_whole_image(rows, density):
    rng = np.random.default_rng(0)
    for _ in range(50):
        columns = int(rng.integers(0, SIZE[1] + 1))
        y1, x1 = (int(rng.integers(0, free + 1)) for free in (SIZE[0] - rows, SIZE[1] - columns))
        image = np.zeros(SIZE, dtype=np.uint8, order='F')
        image[y1 : y1 + rows, x1 : x1 + columns] = rng.random((rows, columns)) < density
        own = image[y1 : y1 + rows, x1 : x1 + columns].astype(bool)
        assert encode_roi(own, x1, y1, SIZE) == coco_mask.encode(image)


def test_decode_roi__empty_mask():
    roi = decode_roi(coco_mask.encode(np.zeros(SIZE, dtype=np.uint8, order='F')))
    assert roi.mask.shape == (0, 0)
    assert (
        encode_roi(*roi, SIZE)['counts']
        == coco_mask.encode(np.zeros(SIZE, dtype=np.uint8, order='F'))['counts']
    )


@pytest.mark.parametrize('kind', [bytes, str, list])
def test_run_lengths__every_form_of_counts(kind):
    # Falling and rising, short and long: negative differences and numbers of several characters.
    counts = [7, 1, 100_000, 3, 2, 40, 1_000_000, 1, 33, 31]
    height = sum(counts)
    packed = coco_mask.frPyObjects({'size': [height, 1], 'counts': counts}, height, 1)['counts']
    given = {bytes: packed, str: packed.decode(), list: counts}[kind]
    assert run_lengths(given).tolist() == counts
