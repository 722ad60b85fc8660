"""ZoomOut: the image unchanged at its place, all else empty, objects with it."""

import numpy as np
import pytest

from mmext.datasets.transforms import ZoomOut
from tests.datasets.ellipses import ELLIPSES, assert_in_step, draw, make_sample


@pytest.mark.parametrize('masks', ['bitmap', 'polygon'])
def test_zoom_out__image_and_objects_at_the_drawn_place(masks):
    transform = ZoomOut(prob=1)
    transform.draw_canvas = lambda size: (30, 50, 500, 400)
    sample = make_sample(masks=masks)
    image = sample['img'].copy()
    results = transform(sample)
    expected = np.zeros((400, 500, 3), np.uint8)
    expected[50:250, 30:290] = image
    assert (results['img'] == expected).all()
    moved = [draw(e, 400, 500, lambda x, y: (x - 30, y - 50)) for e in ELLIPSES]
    if masks == 'bitmap':
        assert_in_step(results, moved)
        x, y = results['homography_matrix'][:2] @ (10, 20, 1)
        assert (x, y) == (40, 70)
    else:
        assert [int(mask.sum()) for mask in results['gt_masks'].masks] == pytest.approx(
            [int(mask.sum()) for mask in moved], rel=0.05
        )


def test_zoom_out__boxes_move_without_masks():
    transform = ZoomOut(prob=1, pad_val=9)
    transform.draw_canvas = lambda size: (3, 4, 300, 300)
    before = make_sample(masks='none')
    boxes = before['gt_bboxes'].tensor.clone()
    results = transform(before)
    assert (results['gt_bboxes'].tensor - boxes).tolist() == [[3, 4, 3, 4]] * 2
    assert (results['img'][0, 0] == 9).all() and 'gt_masks' not in results


def test_zoom_out__draws_over_the_whole_range():
    np.random.seed(0)  # noqa: NPY002
    transform = ZoomOut(side_range=(1, 4), prob=0.5)
    drawn = [transform.draw_canvas((100, 50)) for _ in range(2000)]
    canvases = np.array([canvas for canvas in drawn if canvas is not None])
    # Binomial: 1000 with a deviation of 22.
    assert 900 < len(canvases) < 1100
    left, top, width, height = canvases.T
    assert width.min() < 110 and width.max() > 390 and np.mean(width) == pytest.approx(250, abs=10)
    assert (abs(width - 2 * height) <= 1).all()
    assert (left + 100 <= width).all() and (top + 50 <= height).all() and (left >= 0).all()
    # Uniform within the slack: a half on average, a twelfth of variance.
    share = left[width > 200] / (width - 100)[width > 200]
    assert np.mean(share) == pytest.approx(0.5, abs=0.05)
    assert np.var(share) == pytest.approx(1 / 12, rel=0.15)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [({'side_range': (0.5, 2)}, 'at least 1'), ({'prob': 2}, 'prob')],
    ids=['shrinking', 'prob'],
)
def test_zoom_out__wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ZoomOut(**settings)
