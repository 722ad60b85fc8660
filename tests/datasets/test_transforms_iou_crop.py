"""IoUCrop: windows that obey the rule, objects by their centre, everything in step."""

import numpy as np
import pytest

from mmext.datasets.transforms import IoUCrop
from tests.datasets.ellipses import ELLIPSES, assert_in_step, draw, make_sample

BOXES = np.array([[10, 10, 50, 30], [60, 50, 90, 90]], np.float32)


def _iou(window: np.ndarray, box: np.ndarray) -> float:
    width = min(window[2], box[2]) - max(window[0], box[0])
    height = min(window[3], box[3]) - max(window[1], box[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (window, box)]
    return shared / (sum(areas) - shared)


def _has_centre(window: np.ndarray, box: np.ndarray) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return bool(window[0] < x < window[2] and window[1] < y < window[3])


# Centre (30, 20) of the first box; the windows overlap it by 0 (outside), .25, .5 and 1.
OUTSIDE, QUARTER, HALF, FULL = [
    (30, 20, 40, 28),
    (10, 10, 90, 50),
    (10, 10, 50, 50),
    (10, 10, 50, 30),
]


@pytest.mark.parametrize(
    ('min_iou', 'chosen'), [(0.0, QUARTER), (0.25, QUARTER), (0.3, HALF), (0.6, FULL)]
)
def test_draw_window__first_with_a_centred_object_of_enough_overlap(min_iou, chosen):
    np.random.seed(0)  # noqa: NPY002
    transform = IoUCrop(min_ious=(min_iou, 1.0), prob=1)
    # The first window holds no centre: it ends at the one of the first box.
    windows = np.array([(30, 20, 40, 28), QUARTER, HALF, FULL])
    transform._draw_trials = lambda size: windows
    drawn = {None if w is None else tuple(w.tolist()) for w in _draws(transform, BOXES[:1])}
    assert drawn == {None, chosen}


def test_draw_window__an_object_without_its_centre_inside_does_not_count():
    np.random.seed(0)  # noqa: NPY002
    transform = IoUCrop(min_ious=(0.3, 1.0), prob=1)
    # 19 x 20 pixels of the first box (IoU .475), and not its centre; of the second box, the centre.
    transform._draw_trials = lambda size: np.array([(10, 10, 29, 30), (10, 10, 100, 100)])
    assert _iou((10, 10, 29, 30), BOXES[0]) == 0.475
    assert _draws(transform, BOXES) == [None] * 50


def _draws(transform: IoUCrop, boxes: np.ndarray) -> list:
    return [transform.draw_window((100, 100), boxes) for _ in range(50)]


@pytest.mark.parametrize(
    ('size', 'min_iou'), [((100, 100), 0.3), ((300, 100), 0.1)], ids=['square', 'wide']
)
def test_draw_window__obeys_the_rule(size, min_iou):
    np.random.seed(1)  # noqa: NPY002
    transform = IoUCrop(min_ious=(min_iou, 1.0), prob=1)
    windows = [transform.draw_window(size, BOXES) for _ in range(200)]
    drawn = np.array([window for window in windows if window is not None])
    assert 0 < len(drawn) < 200
    for window in drawn:
        assert max(_iou(window, box) for box in BOXES if _has_centre(window, box)) >= min_iou
    width, height = (drawn[:, 2:] - drawn[:, :2]).T
    assert (width >= int(0.3 * size[0])).all() and (width <= size[0]).all()
    assert (height >= 30).all() and (height <= 100).all()
    assert (width >= 0.5 * height).all() and (width <= 2 * height).all()
    assert (drawn[:, :2] >= 0).all() and (drawn[:, 2:] <= size).all()


def test_draw_window__every_least_overlap_is_as_likely():
    np.random.seed(0)  # noqa: NPY002
    # A box over the whole image: without a least overlap every trial with the centre fits, and whole images come
    # from the draw of 1 alone.
    transform = IoUCrop(min_ious=(0.0, 0.0, 0.0, 1.0), prob=0.8)
    whole = [
        transform.draw_window((100, 100), np.float32([[0, 0, 100, 100]])) is None
        for _ in range(800)
    ]
    # 1 - .8 * .75 = .4, deviation .017.
    assert np.mean(whole) == pytest.approx(0.4, abs=0.05)


def test_draw_window__tiny_images_and_images_without_objects():
    np.random.seed(0)  # noqa: NPY002
    transform = IoUCrop(prob=1)
    assert transform.draw_window((100, 100), np.zeros((0, 4), np.float32)) is None
    windows = [transform.draw_window((2, 3), np.float32([[0, 0, 2, 3]])) for _ in range(50)]
    assert all(w is None or (w[2:] > w[:2]).all() for w in windows)


@pytest.mark.parametrize('masks', ['bitmap', 'none'])
def test_iou_crop__objects_by_their_centre(masks):
    transform = IoUCrop()
    # The first ellipse has its centre (90, 70) inside and is cut on the left, the second (190, 120) has not.
    transform.draw_window = lambda size, boxes: np.array([70, 30, 185, 190])
    sample = make_sample(masks=masks)
    sample['gt_ignore_flags'] = np.array([True, False])
    box = sample['gt_bboxes'].tensor[0].tolist()
    results = transform(sample)
    assert results['gt_bboxes_labels'].tolist() == [0]
    assert results['gt_ignore_flags'].tolist() == [True]
    assert results['img'].shape == (160, 115, 3) and results['img_shape'] == (160, 115)
    if masks == 'bitmap':
        left = draw(ELLIPSES[0], 160, 115, lambda x, y: (x + 70, y + 30))
        second = draw(ELLIPSES[1], 160, 115, lambda x, y: (x + 70, y + 30))
        results['img'][second > 0] = 0
        assert_in_step(results, [left])
    else:
        assert results['gt_bboxes'].tensor[0].tolist() == [0, box[1] - 30, box[2] - 70, box[3] - 30]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'min_ious': (0.5,)}, 'might never end'),
        ({'min_ious': ()}, 'might never end'),
        ({'scale_range': (0.3, 1.5)}, 'whole side'),
        ({'num_trials': 0}, 'num_trials'),
    ],
    ids=['no whole image', 'no overlap', 'window beyond the image', 'no trial'],
)
def test_iou_crop__wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        IoUCrop(**settings)
