"""InstanceCrop: the window is where it should be, and objects are cut with the image."""

import numpy as np
import pytest

from mmext.datasets.transforms import InstanceCrop
from tests.datasets.ellipses import ELLIPSES, Ellipse, assert_in_step, draw, make_sample


def _seed(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('masks', ['bitmap', 'polygon'])
def test_instance_crop__objects_follow_the_image(seed, masks):
    _seed(seed)
    sample = make_sample(masks=masks)
    results = InstanceCrop((120, 100), min_area_ratio=0, min_side=0, pad_val=0)(sample)
    left, top = -results['homography_matrix'][:2, 2]
    assert results['img'].shape == (100, 120, 3)
    expected = [draw(e, 100, 120, lambda x, y: (x + left, y + top)) for e in ELLIPSES]
    assert_in_step(
        results, [mask for mask in expected if mask.any()], 0.999 if masks == 'bitmap' else 0.9
    )


def test_instance_crop__window_holds_a_whole_object_but_not_always_in_the_middle():
    _seed(0)
    ellipse = Ellipse(150, 90, 12, 8)
    centers = []
    for _ in range(60):
        results = InstanceCrop((80, 80), prob=1.0)(make_sample(ellipses=(ellipse,)))
        assert results['gt_masks'].areas[0] == make_sample(ellipses=(ellipse,))['gt_masks'].areas[0]
        centers.append(results['gt_bboxes'].centers[0].tolist())
    low, high = np.min(centers, axis=0), np.max(centers, axis=0)
    assert (low < 20).all() and (high > 60).all()


def test_instance_crop__every_object_is_chosen():
    _seed(0)
    seen = [InstanceCrop((90, 90), prob=1.0)(make_sample())['gt_bboxes_labels'] for _ in range(40)]
    assert {label for labels in seen for label in labels.tolist()} == {0, 1}


def test_instance_crop__without_luck_the_window_lies_anywhere():
    _seed(0)
    small = (Ellipse(20, 20, 6, 6),)
    counts = [
        len(InstanceCrop((60, 60), prob=0.0)(make_sample(ellipses=small))['gt_bboxes'])
        for _ in range(100)
    ]
    # The corner holds the object in a few windows out of 200 x 140.
    assert 0 < np.sum(counts) < 30


def test_instance_crop__window_lies_inside_a_larger_object():
    _seed(0)
    large = (Ellipse(130, 100, 90, 70),)
    for _ in range(20):
        results = InstanceCrop((60, 50), prob=1.0)(make_sample(ellipses=large))
        left, top = -results['homography_matrix'][:2, 2]
        assert 40 <= left <= 160 and 30 <= top <= 120
        assert (results['img'] != 114).any()


def test_instance_crop__smaller_image_is_padded_and_whole():
    _seed(1)
    results = InstanceCrop((300, 240), pad_val=114)(make_sample())
    left, top = (int(-v) for v in results['homography_matrix'][:2, 2])
    assert -40 <= left <= 0 and -40 <= top <= 0
    inside = results['img'][-top : -top + 200, -left : -left + 260]
    assert (inside == make_sample()['img']).all()
    assert (results['img'] == 114).all(axis=2).sum() == 300 * 240 - 260 * 200
    assert results['gt_masks'].areas.tolist() == make_sample()['gt_masks'].areas.tolist()


def test_instance_crop__fraction_of_the_image():
    _seed(0)
    shapes = [InstanceCrop(fraction=(0.5, 0.75))(make_sample())['img_shape'] for _ in range(50)]
    heights, widths = np.transpose(shapes)
    assert 100 <= heights.min() < 110 and 140 < heights.max() <= 150
    assert heights / widths == pytest.approx(np.full(50, 200 / 260), abs=0.01)


def _crop_at(left: int, top: int, sample: dict, **settings: float) -> dict:
    transform = InstanceCrop((100, 100), **settings)
    transform.draw_window = lambda image_size, boxes: [left, top, 100, 100]
    return transform(sample)


@pytest.mark.parametrize('masks', ['bitmap', 'none'])
@pytest.mark.parametrize(
    ('min_area_ratio', 'min_cover', 'kept'),
    [
        pytest.param(0.45, 1.0, True, id='half of it is enough'),
        pytest.param(0.55, 1.0, False, id='half of it is too little'),
        pytest.param(0.55, 0.05, True, id='too little, yet it covers much of the window'),
        pytest.param(0.55, 0.2, False, id='too little of both'),
    ],
)
def test_instance_crop__rest_of_an_object(masks, min_area_ratio, min_cover, kept):
    # Half of a circle of radius 20 is left: 628 pixels, 6 % of the window (its box: 8 %).
    sample = make_sample(ellipses=(Ellipse(100, 100, 20, 20),), masks=masks)
    results = _crop_at(100, 50, sample, min_area_ratio=min_area_ratio, min_cover=min_cover)
    assert len(results['gt_bboxes']) == len(results['gt_bboxes_labels']) == kept
    if kept:
        assert results['gt_bboxes'].tensor.tolist() == [[0, 30, 20, 70]]


def test_instance_crop__image_without_objects():
    results = InstanceCrop((100, 100))(make_sample(ellipses=()))
    assert results['gt_masks'].masks.shape == (0, 100, 100)
    assert results['gt_bboxes'].tensor.shape == (0, 4)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({}, 'exactly one'),
        ({'size': (64, 64), 'fraction': (0.5, 1)}, 'exactly one'),
        ({'size': (64, -1)}, 'size'),
        ({'fraction': (0, 1)}, 'fraction'),
        ({'size': (64, 64), 'prob': 1.5}, 'prob'),
    ],
)
def test_instance_crop__wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        InstanceCrop(**settings)
