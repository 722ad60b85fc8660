"""Windows around rare classes."""

import numpy as np
import pytest

from mmext.datasets.transforms import LabelCrop


def sample(height: int, width: int, spots: dict[int, tuple[int, int]]) -> dict:
    """A picture whose pixels say where they come from, with one pixel (row, column) of each label."""
    labels = np.zeros((height, width), np.uint8)
    for label, place in spots.items():
        labels[place] = label
    rows, columns = np.indices((height, width), dtype=np.uint8)
    image = np.stack([rows, columns, labels], axis=-1)
    return dict(img=image, gt_seg_map=labels, other=labels + 1, seg_fields=['gt_seg_map', 'other'])


def test_window__shows_the_class_as_often_as_any_other_and_keeps_maps_in_step() -> None:
    np.random.seed(0)  # noqa: NPY002
    spots = {1: (0, 0), 2: (39, 59), 3: (20, 30)}
    shown = np.zeros(4)
    for _ in range(120):
        out = LabelCrop((15, 10), prob=1.0).transform(sample(40, 60, spots))
        assert out['img'].shape == (10, 15, 3) and out['img_shape'] == (10, 15)
        np.testing.assert_array_equal(out['img'][..., 2], out['gt_seg_map'])
        np.testing.assert_array_equal(out['other'], out['gt_seg_map'] + 1)
        top, left = out['img'][0, 0, :2].tolist()
        np.testing.assert_array_equal(out['img'][-1, -1, :2], (top + 9, left + 14))
        labels = np.unique(out['gt_seg_map'])
        assert len(labels) == 2
        shown[labels[1]] += 1
    # A third of 120 each; five standard deviations are 26.
    assert shown[0] == 0 and (np.abs(shown[1:] - 40) < 26).all()


def test_window__without_the_class_lies_anywhere() -> None:
    np.random.seed(0)  # noqa: NPY002
    crop = LabelCrop((4, 4), prob=1.0)
    starts = {
        tuple(crop.transform(sample(6, 7, {255: (0, 0)}))['img'][0, 0, :2]) for _ in range(150)
    }
    assert starts == {(row, column) for row in range(3) for column in range(4)}


@pytest.mark.parametrize('size', [(1, 1), (3, 50), (50, 3), (50, 50)], ids=str)
def test_window__small_pictures_stay(size: tuple[int, int]) -> None:
    out = LabelCrop((8, 8), prob=1.0).transform(sample(*size, {1: (0, 0)}))
    assert out['gt_seg_map'].shape == (min(size[0], 8), min(size[1], 8))
    assert out['img'].shape[:2] == out['gt_seg_map'].shape and out['gt_seg_map'][0, 0] == 1


def test_crop__says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match='prob=1.5'):
        LabelCrop((8, 8), prob=1.5)
    with pytest.raises(ValueError, match='size'):
        LabelCrop((0, 8))
    strange = sample(6, 6, {}) | dict(gt_seg_map=np.zeros((6, 7), np.uint8), img_path='a.jpg')
    with pytest.raises(ValueError, match=r'a.jpg has \(6, 6\) .* \(6, 7\)'):
        LabelCrop((4, 4)).transform(strange)
