"""Mosaic and MixUp: each image where arithmetic says, with its masks, boxes and labels."""

import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmdet.datasets import MultiImageMixDataset
from mmengine.dataset import BaseDataset

from mmext.datasets.transforms import MixUp, Mosaic, RandomAffine
from tests.datasets.ellipses import ELLIPSES, Ellipse, assert_in_step, draw, iou, make_sample


def _four_samples(masks: str = 'bitmap') -> dict:
    """Samples of different sizes and objects, one of them without objects; labels 0 to 4."""
    samples = [
        make_sample(200, 260, masks=masks),
        make_sample(150, 100, (Ellipse(50, 60, 30, 20, 0.3),), masks=masks),
        make_sample(120, 120, (), masks=masks),
        make_sample(100, 200, (Ellipse(60, 50, 25, 30), Ellipse(150, 60, 30, 20)), masks=masks),
    ]
    for sample, first in zip(samples, (0, 2, 3, 3), strict=True):
        sample['gt_bboxes_labels'] = sample['gt_bboxes_labels'] + first
    return {**samples[0], 'mix_results': samples[1:]}


def _mosaic(center: tuple[int, int], results: dict) -> dict:
    transform = Mosaic((160, 120), pad_val=0)
    transform.draw_center = lambda: center
    return transform(results)


# Fitted into 160 x 120: 156 x 120, 80 x 120, 120 x 120, 160 x 80; scales .6, .8, 1, .8.
@pytest.mark.parametrize('center', [(160, 120), (170, 140)], ids=['middle', 'off the middle'])
@pytest.mark.parametrize('masks', ['bitmap', 'polygon'])
def test_mosaic__objects_of_all_images_in_their_corners(center, masks):
    results = _mosaic(center, _four_samples(masks))
    x, y = center
    placed = [
        (ELLIPSES[0], 0.6, x - 156, y - 120),
        (ELLIPSES[1], 0.6, x - 156, y - 120),
        (Ellipse(50, 60, 30, 20, 0.3), 0.8, x, y - 120),
        (Ellipse(60, 50, 25, 30), 0.8, x, y),
        (Ellipse(150, 60, 30, 20), 0.8, x, y),
    ]
    expected = [
        draw(e, 240, 320, lambda u, v, s=s, left=left, top=top: ((u - left) / s, (v - top) / s))
        for e, s, left, top in placed
    ]
    assert results['gt_bboxes_labels'].tolist() == [0, 1, 2, 3, 4]
    # Shapes of 15 pixels radius: the second sampling of the outline costs up to 3 %.
    assert_in_step(results, expected, 0.965 if masks == 'bitmap' else 0.88)


def test_mosaic__objects_beyond_the_canvas_are_dropped():
    # At (80, 60) the first image shows its lower right part only: x > 76 / .6, y > 60 / .6 of the
    # input.
    sample = {
        **make_sample(200, 260, (Ellipse(60, 60, 20, 20), Ellipse(200, 160, 20, 20))),
        'mix_results': [make_sample(120, 160, ()) for _ in range(3)],
    }
    results = _mosaic((80, 60), sample)
    assert results['gt_bboxes_labels'].tolist() == [1]
    assert len(results['gt_masks']) == len(results['gt_ignore_flags']) == 1


def test_mosaic__center_lies_in_its_range_for_a_wide_canvas():
    np.random.seed(0)  # noqa: NPY002
    transform = Mosaic((400, 100), center_range=(0.5, 1.5))
    centers = np.array([transform.draw_center() for _ in range(300)])
    assert (centers.min(axis=0) >= (200, 50)).all() and (centers.max(axis=0) <= (600, 150)).all()
    assert (centers.min(axis=0) < (220, 55)).all() and (centers.max(axis=0) > (580, 145)).all()


def test_mosaic__boxes_without_masks():
    results = _mosaic((160, 120), _four_samples('none'))
    assert 'gt_masks' not in results
    assert len(results['gt_bboxes']) == 5
    x1, y1, x2, y2 = (
        make_sample(150, 100, (Ellipse(50, 60, 30, 20, 0.3),))['gt_bboxes'].tensor[0].tolist()
    )
    expected = [160 + 0.8 * x1, 0.8 * y1, 160 + 0.8 * x2, 0.8 * y2]
    assert results['gt_bboxes'].tensor[2].tolist() == pytest.approx(expected, abs=1e-3)


def test_mosaic_then_affine__crops_to_the_input_size():
    np.random.seed(0)  # noqa: NPY002
    affine = RandomAffine(max_translate=0, scale_range=(1, 1), size=(160, 120), pad_val=0)
    results = affine(_mosaic((160, 120), _four_samples()))
    assert results['img'].shape == (120, 160, 3)
    whole = _mosaic((160, 120), _four_samples())
    assert (results['img'] == whole['img'][60:180, 80:240]).all()
    for mask, label in zip(results['gt_masks'].masks, results['gt_bboxes_labels'], strict=True):
        assert (mask == whole['gt_masks'].masks[label, 60:180, 80:240]).all()


@pytest.mark.parametrize('masks', ['bitmap', 'none'])
def test_mixup__both_images_and_all_objects(masks):
    transform = MixUp(pad_val=114)
    transform.draw_weight = lambda: 0.25
    other = make_sample(100, 100, (Ellipse(50, 40, 30, 20),), masks=masks)
    other['gt_bboxes_labels'] = np.array([7])
    results = transform({**make_sample(masks=masks), 'mix_results': [other]})
    # 100 x 100 becomes 200 x 200, 30 columns from the left.
    placed = draw(Ellipse(50, 40, 30, 20), 200, 260, lambda x, y: ((x - 30) / 2, y / 2))
    own = draw(ELLIPSES[0], 200, 260) | draw(ELLIPSES[1], 200, 260)
    inner = np.full((200, 260), 114.0)
    inner[:, 30:230] = 255 * placed[:, 30:230]
    expected = 0.25 * 255 * own + 0.75 * inner
    # Beside the outline, where resizing blurs.
    assert np.mean(np.abs(results['img'][..., 0] - expected) <= 1) > 0.98
    assert results['gt_bboxes_labels'].tolist() == [0, 1, 7]
    assert results['img'].dtype == np.uint8
    assert results['gt_bboxes'].tensor[2].tolist() == pytest.approx([70, 40, 190, 120], abs=2)
    if masks == 'bitmap':
        assert iou(results['gt_masks'].masks[2], placed) > 0.97


def test_mixup__weight_is_near_one_half():
    np.random.seed(0)  # noqa: NPY002
    transform = MixUp(alpha=32)
    weights = [transform.draw_weight() for _ in range(2000)]
    # Beta(32, 32): mean 1/2, variance 1 / (4 * 65).
    assert np.mean(weights) == pytest.approx(0.5, abs=0.01)
    assert np.std(weights) == pytest.approx(np.sqrt(1 / 260), rel=0.05)


@pytest.mark.parametrize('transform', [Mosaic((64, 64)), MixUp()], ids=['mosaic', 'mixup'])
def test_mixing__without_the_wrapper(transform):
    with pytest.raises(ValueError, match='MultiImageMixDataset'):
        transform(make_sample())


@pytest.mark.parametrize('transform', [Mosaic((64, 64)), MixUp()], ids=['mosaic', 'mixup'])
def test_mixing__masks_in_some_images_only(transform):
    partners = [make_sample(masks='none') for _ in range(3)]
    with pytest.raises(ValueError, match='with and without'):
        transform({**make_sample(), 'mix_results': partners})


class _Load(BaseTransform):
    """Stands for reading a file: makes a sample from its number."""

    def transform(self, results: dict) -> dict:
        return make_sample(60, 60, (Ellipse(20 + results['number'], 30, 10, 10),))


class _Numbers(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [{'number': number} for number in range(20)]


def _wrapped(*transforms: dict) -> MultiImageMixDataset:
    return MultiImageMixDataset(dataset=_Numbers(pipeline=[_Load()]), pipeline=list(transforms))


def test_mixing__in_the_wrapper_of_mmdet():
    np.random.seed(0)  # noqa: NPY002
    dataset = _wrapped(
        {'type': 'mmext.Mosaic', 'scale': (64, 64)},
        {'type': 'mmext.RandomAffine', 'size': (64, 64)},
        {'type': 'mmext.MixUp'},
    )
    results = [dataset[i] for i in range(4)]
    assert all(r['img'].shape == (64, 64, 3) and 'mix_results' not in r for r in results)
    assert all(len(r['gt_masks']) == len(r['gt_bboxes_labels']) >= 1 for r in results)


@pytest.mark.parametrize('kind', ['Mosaic', 'MixUp'])
def test_mixing__probability_0_loads_nothing(kind):
    settings = {'scale': (64, 64)} if kind == 'Mosaic' else {}
    dataset = _wrapped({'type': f'mmext.{kind}', 'prob': 0.0, **settings})
    transform = dataset.pipeline[0]
    assert transform.get_indexes(dataset) == []
    assert (dataset[3]['img'] == _Load()({'number': 3})['img']).all()


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: Mosaic((64,)), 'scale'),
        (lambda: Mosaic((64, 64), center_range=(0.5, 2.0)), 'center_range'),
        (lambda: Mosaic((64, 64), prob=-0.1), 'prob'),
        (lambda: MixUp(alpha=0), 'alpha'),
    ],
)
def test_mixing__wrong_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()
