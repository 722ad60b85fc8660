"""LetterBox and RandomAffine against ellipses computed at the mapped coordinates."""

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.datasets.transforms import RandomFlip
from mmdet.structures.mask import BitmapMasks

from mmext.datasets.transforms import LetterBox, RandomAffine
from tests.datasets.ellipses import (
    ELLIPSES,
    Ellipse,
    assert_in_step,
    draw,
    extent,
    make_sample,
)


@pytest.mark.parametrize('masks', ['bitmap', 'polygon'])
@pytest.mark.parametrize(
    ('scale', 'center', 'ratio', 'left', 'top'),
    [
        pytest.param((320, 320), True, 320 / 260, 0, 37, id='enlarged, padded above and below'),
        pytest.param((320, 320), False, 320 / 260, 0, 0, id='top left'),
        pytest.param((400, 160), True, 160 / 200, 96, 0, id='shrunk, padded at the sides'),
    ],
)
def test_letter_box__objects_follow_the_image(masks, scale, center, ratio, left, top):
    results = LetterBox(scale, center=center, pad_val=0)(make_sample(masks=masks))

    def to_input(x, y):
        return (x - left) / ratio, (y - top) / ratio

    assert results['img'].shape == (scale[1], scale[0], 3)
    expected = [draw(e, scale[1], scale[0], to_input) for e in ELLIPSES]
    # A polygon is filled over the pixels that its outline touches, half a pixel more than the
    # ellipse.
    assert_in_step(results, expected, 0.98 if masks == 'bitmap' else 0.94)


def test_letter_box__meta_leads_back_to_the_original():
    results = LetterBox((320, 256))(make_sample(201, 263))
    width_scale, height_scale = results['scale_factor']
    top, bottom, left, right = results['pad_param']
    # min(320 / 263, 256 / 201) = 1.2167, so 320 x 244.57, which is 245 rows, and 11 rows of
    # padding.
    assert (width_scale, height_scale) == (320 / 263, 245 / 201)
    assert (top, bottom, left, right) == (5, 6, 0, 0)
    assert (results['img'][:5] == 114).all() and (results['img'][-6:] == 114).all()
    original = make_sample(201, 263)['gt_bboxes'].tensor
    back = results['gt_bboxes'].tensor - torch.tensor([left, top, left, top])
    back = back / torch.tensor([width_scale, height_scale] * 2)
    assert (back - original).abs().max() < 1
    x, y, _ = results['homography_matrix'] @ (100, 50, 1)
    assert (x, y) == pytest.approx((100 * 320 / 263, 50 * 245 / 201 + 5), abs=1e-3)


def test_letter_box__after_a_resize_leads_back_to_the_file():
    sample = make_sample(200, 260)
    halved = sample | dict(img=sample['img'][::2, ::2].copy(), scale_factor=(0.5, 0.5))
    halved = {key: halved[key] for key in ('img', 'scale_factor')}
    assert LetterBox((260, 200))(halved)['scale_factor'] == (1.0, 1.0)


def test_letter_box__twice():
    with pytest.raises(ValueError, match='padded already'):
        LetterBox((64, 64))(LetterBox((32, 32))(make_sample()))


def test_letter_box__small_image_is_only_padded():
    sample = make_sample()
    results = LetterBox((400, 300), allow_scale_up=False)(make_sample())
    assert results['scale_factor'] == (1, 1)
    assert results['pad_param'] == (50, 50, 70, 70)
    assert (results['img'][50:250, 70:330] == sample['img']).all()
    assert (results['gt_masks'].masks[:, 50:250, 70:330] == sample['gt_masks'].masks).all()


def test_letter_box__extreme_aspect_keeps_a_pixel():
    results = LetterBox((64, 64))({'img': np.full((1, 1000, 3), 200, np.uint8)})
    assert results['pad_param'] == (31, 32, 0, 0)
    assert (results['img'][31] == 200).all()


def test_letter_box__boxes_without_masks_are_exact():
    results = LetterBox((520, 400))(make_sample(masks='none'))
    expected = make_sample()['gt_bboxes'].tensor * 2
    assert torch.equal(results['gt_bboxes'].tensor, expected)
    assert 'gt_masks' not in results


@pytest.mark.parametrize('transform', [LetterBox((64, 64)), RandomAffine()])
def test_geometry__image_without_objects(transform):
    results = transform(make_sample(ellipses=()))
    assert results['gt_bboxes'].tensor.shape == (0, 4)
    assert results['gt_masks'].masks.shape == (0, *results['img_shape'])


@pytest.mark.parametrize('transform', [LetterBox((64, 64)), RandomAffine()])
def test_geometry__semantic_map_is_refused(transform):
    with pytest.raises(ValueError, match='with_seg=False'):
        transform({**make_sample(), 'gt_seg_map': np.zeros((200, 260), np.uint8)})


@pytest.mark.parametrize('masks', ['bitmap', 'polygon'])
def test_random_affine__pure_scale_about_the_centre(masks):
    transform = RandomAffine(max_translate=0, scale_range=(1.5, 1.5), size=(400, 330), pad_val=0)
    results = transform(make_sample(masks=masks))

    def to_input(x, y):
        return (x - 200) / 1.5 + 130, (y - 165) / 1.5 + 100

    expected = [draw(e, 330, 400, to_input) for e in ELLIPSES]
    assert_in_step(results, expected, 0.98 if masks == 'bitmap' else 0.95)


@pytest.mark.parametrize('seed', range(6))
def test_random_affine__objects_follow_the_image(seed):
    np.random.seed(seed)  # noqa: NPY002
    transform = RandomAffine(
        max_rotate=40, max_translate=0.1, scale_range=(0.9, 1.6), max_shear=10, pad_val=0
    )
    results = transform(make_sample())
    inverse = np.linalg.inv(results['homography_matrix'].astype(float))

    def to_input(x, y):
        return (
            inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2],
            inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2],
        )

    expected = [draw(e, 200, 260, to_input) for e in ELLIPSES]
    assert_in_step(results, [mask for mask in expected if mask.any()])


def test_random_affine__matrix_has_the_drawn_parts():
    np.random.seed(0)  # noqa: NPY002
    transform = RandomAffine(max_rotate=30, max_translate=0.1, scale_range=(0.5, 2), size=(100, 80))
    angles, ratios, moves = [], [], []
    for _ in range(300):
        matrix = transform.draw_matrix((300, 200), (100, 80))
        ratio = np.sqrt(np.linalg.det(matrix[:2, :2]))
        rotation = matrix[:2, :2] / ratio
        assert rotation @ rotation.T == pytest.approx(np.eye(2), abs=1e-9)
        angles.append(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0])))
        ratios.append(ratio)
        moves.append((matrix @ (150, 100, 1))[:2] - (50, 40))
    assert -30 <= min(angles) < -25 and 25 < max(angles) <= 30
    assert 0.5 <= min(ratios) < 0.55 and 1.9 < max(ratios) <= 2
    assert (np.abs(moves).max(axis=0) <= (10, 8)).all()
    assert (np.abs(moves).max(axis=0) > (9, 7)).all()


def test_random_affine__same_seed_same_result():
    outputs = []
    for _ in range(2):
        np.random.seed(3)  # noqa: NPY002
        outputs.append(RandomAffine(max_rotate=20)(make_sample()))
    assert (outputs[0]['img'] == outputs[1]['img']).all()
    assert (outputs[0]['gt_masks'].masks == outputs[1]['gt_masks'].masks).all()


def _bar(width: float, height: float) -> dict:
    """A sample of one bar with its box at (100, 100), bitmap mask."""
    sample = make_sample(ellipses=(Ellipse(100, 100, 10, 10),))
    mask = np.zeros((1, 200, 260), np.uint8)
    mask[0, 100 : 100 + height, 100 : 100 + width] = 1
    sample['gt_masks'] = BitmapMasks(mask, 200, 260)
    sample['gt_bboxes'].tensor[0] = torch.tensor([100.0, 100, 100 + width, 100 + height])
    return sample


@pytest.mark.parametrize(
    ('width', 'height', 'settings', 'kept'),
    [
        pytest.param(20, 2, {}, False, id='side of 2 px goes'),
        pytest.param(20, 3, {}, True, id='side of 3 px stays'),
        pytest.param(20, 2, {'min_side': 1}, True, id='min_side is a setting'),
        pytest.param(120, 6, {'max_aspect': 20}, False, id='aspect of 20 goes'),
        pytest.param(114, 6, {'max_aspect': 20}, True, id='aspect of 19 stays'),
    ],
)
def test_random_affine__drop_rule(width, height, settings, kept):
    transform = RandomAffine(max_translate=0, scale_range=(1, 1), **settings)
    results = transform(_bar(width, height))
    assert len(results['gt_bboxes']) == len(results['gt_masks']) == kept
    assert len(results['gt_bboxes_labels']) == len(results['gt_ignore_flags']) == kept


@pytest.mark.parametrize(
    ('masks', 'settings', 'kept'),
    [
        pytest.param('bitmap', {'min_mask_ratio': 0.55}, False, id='less than the mask ratio'),
        pytest.param('bitmap', {'min_mask_ratio': 0.45}, True, id='more than the mask ratio'),
        pytest.param('none', {'min_box_ratio': 0.55}, False, id='less than the box ratio'),
        pytest.param('none', {'min_box_ratio': 0.45}, True, id='more than the box ratio'),
    ],
)
def test_random_affine__half_visible_object(masks, settings, kept):
    # The output shows the columns 80 to 180 of the input: the right half of the circle.
    sample = make_sample(ellipses=(Ellipse(80, 100, 30, 30),), masks=masks)
    transform = RandomAffine(max_translate=0, scale_range=(1, 1), size=(100, 200), **settings)
    results = transform(sample)
    assert len(results['gt_bboxes']) == kept
    if kept:
        assert results['gt_bboxes'].tensor.tolist() == [[0, 70, 30, 130]]


def test_random_affine__labels_stay_with_their_objects():
    ellipses = (Ellipse(10, 100, 8, 8), Ellipse(130, 100, 20, 20), Ellipse(250, 100, 8, 8))
    transform = RandomAffine(max_translate=0, scale_range=(1, 1), size=(100, 200))
    results = transform(make_sample(ellipses=ellipses))
    assert results['gt_bboxes_labels'].tolist() == [1]
    assert results['gt_bboxes'].tensor.tolist() == [[30, 80, 70, 120]]


def test_random_affine__box_without_mask_pixels_goes_by_its_corners():
    sample = make_sample()
    sample['gt_masks'].masks[1] = 0
    expected = sample['gt_bboxes'].tensor[1] * 2
    results = RandomAffine(max_translate=0, scale_range=(2, 2), size=(520, 400))(sample)
    assert torch.equal(results['gt_bboxes'].tensor[1], expected)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: LetterBox((0, 64)), 'scale'),
        (lambda: LetterBox((64.5, 64)), 'whole pixels'),
        (lambda: RandomAffine(scale_range=(1.5, 0.5)), 'scale_range'),
        (lambda: RandomAffine(scale_range=(0, 1)), 'scale_range'),
        (lambda: RandomAffine(max_shear=45), 'max_shear'),
        (lambda: RandomAffine(size=(100,)), 'size'),
    ],
)
def test_geometry__wrong_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_random_flip_of_mmdet__masks_follow(direction):
    results = Compose([RandomFlip(prob=1.0, direction=direction)])(make_sample())
    flip_x, flip_y = direction != 'vertical', direction != 'horizontal'

    def to_input(x, y):
        return (260 - x if flip_x else x), (200 - y if flip_y else y)

    expected = [draw(e, 200, 260, to_input) for e in ELLIPSES]
    assert [extent(mask) for mask in expected] == results['gt_bboxes'].tensor.tolist()
    assert_in_step(results, expected, 0.999)


def test_warp__agrees_with_a_resize_of_opencv():
    # An enlargement by 2 has a known result: cv2.resize uses the same pixel centres.
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    transform = RandomAffine(max_translate=0, scale_range=(2, 2), size=(100, 80))
    warped = transform({'img': image})['img'][4:-4, 4:-4].astype(int)
    resized = cv2.resize(image, (100, 80), interpolation=cv2.INTER_LINEAR)[4:-4, 4:-4]
    assert np.abs(warped - resized).max() <= 2
