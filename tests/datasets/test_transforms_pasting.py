"""FlipPaste and PasteInstances: pasted pixels, cut masks, and what must not be covered."""

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks

from mmext.datasets.transforms import FlipPaste, PasteInstances
from mmext.datasets.transforms.objects import read_objects
from mmext.datasets.transforms.pasting import Canvas, cut_patch
from tests.datasets.ellipses import Ellipse, draw, extent, iou, make_sample

SMALL = Ellipse(60, 80, 25, 15, 0.5)


def _seed(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002


def _grey_sample(background: int, foreground: int, ellipses: tuple[Ellipse, ...], **kw) -> dict:
    sample = make_sample(ellipses=ellipses, **kw)
    white = sample['img'] > 0
    sample['img'] = np.where(white, foreground, background).astype(np.uint8)
    return sample


def test_flip_paste__mirror_image_beside_the_original():
    results = FlipPaste(prob=1.0)(_grey_sample(100, 160, (SMALL,)))
    mirrored = draw(SMALL, 200, 260, lambda x, y: (260 - x, y))
    assert (results['gt_masks'].masks[1] == mirrored).all()
    assert (results['gt_masks'].masks[0] == draw(SMALL, 200, 260)).all()
    assert results['gt_bboxes'].tensor[1].tolist() == extent(mirrored)
    assert results['gt_bboxes_labels'].tolist() == [0, 0]
    assert results['gt_ignore_flags'].tolist() == [False, False]
    assert (results['img'][mirrored > 0] == 160).all()
    beside = np.ones((200, 260), bool)
    beside[60:100, 20:240] = False
    assert (results['img'][beside] == 100).all()


@pytest.mark.parametrize(
    ('x', 'pasted'),
    [
        pytest.param(105, True, id='mirror 50 px away, apart'),
        pytest.param(114, True, id='covers less than 30 %'),
        pytest.param(120, False, id='covers more than 30 %'),
        pytest.param(130, False, id='covers itself'),
    ],
)
def test_flip_paste__never_covers_30_percent(x, pasted):
    # Circles of radius 20 whose centres are 32 (20) pixels apart share 10 % (39 %) of each.
    circle = Ellipse(x, 100, 20, 20)
    mirrored = draw(circle, 200, 260, lambda u, v: (260 - u, v))
    own = draw(circle, 200, 260)
    assert ((own & mirrored).sum() < 0.3 * own.sum()) == pasted
    results = FlipPaste(prob=1.0, max_cover=0.3)(make_sample(ellipses=(circle,)))
    assert len(results['gt_bboxes']) == 1 + pasted
    if pasted:
        assert (results['gt_masks'].masks[0] == (own & ~(mirrored > 0))).all()
        assert results['gt_bboxes'].tensor[0].tolist() == extent(results['gt_masks'].masks[0])
        assert not results['gt_masks'].masks.all(axis=0).any()


def _crowd(num: int, seed: int) -> dict:
    """Many ellipses that overlap each other and their mirror images."""
    rng = np.random.default_rng(seed)
    low, high = (20, 20, 4, 4, 0), (240, 180, 30, 30, 3)
    return make_sample(ellipses=tuple(Ellipse(*rng.uniform(low, high)) for _ in range(num)))


@pytest.mark.parametrize('seed', range(4))
def test_flip_paste__crowd_equals_a_loop_over_whole_masks(seed):
    sample = _crowd(20, seed)
    originals = sample['gt_masks'].masks.astype(bool)
    masks, sources = list(originals), []
    for i, mask in enumerate(originals):
        mirrored = mask[:, ::-1]
        covers = [(own & mirrored).sum() / max(own.sum(), 1) for own in masks]
        if mask.any() and max(covers) < 0.3:
            masks = [*(own & ~mirrored for own in masks), mirrored]
            sources.append(i)
    assert 3 < len(sources) < 20
    results = FlipPaste(prob=1.0)(_crowd(20, seed))
    assert (results['gt_masks'].masks == masks).all()
    assert results['gt_bboxes_labels'].tolist() == [*range(20), *sources]
    # A box stays where nothing of its mask is left.
    boxes = results['gt_bboxes'].tensor.tolist()
    assert all(box == extent(mask) for box, mask in zip(boxes, masks, strict=True) if mask.any())


def test_canvas__a_paste_moves_no_mask():
    sample = _crowd(5, 0)
    canvas = Canvas(sample['img'], read_objects(sample))
    before = list(canvas.masks)
    patch, left, top = cut_patch(sample['img'], canvas.masks[2])
    canvas.paste(patch, left, top, source=2)
    assert len(canvas.masks) == 6
    assert all(now is then for now, then in zip(canvas.masks[:5], before, strict=True))
    assert not canvas.masks[2].any()
    assert canvas.areas == [int(mask.sum()) for mask in canvas.masks]


def test_flip_paste__probability_is_per_instance():
    _seed(0)
    pair = (Ellipse(40, 50, 12, 12), Ellipse(60, 150, 12, 12))
    counts = [len(FlipPaste(prob=0.3)(make_sample(ellipses=pair))['gt_bboxes']) for _ in range(100)]
    assert np.mean(np.array(counts) - 2) == pytest.approx(2 * 0.3, abs=0.1)


@pytest.mark.parametrize('masks', ['bitmap', 'polygon'])
def test_flip_paste__image_without_objects(masks):
    results = FlipPaste(prob=1.0)(make_sample(ellipses=(), masks=masks))
    assert len(results['gt_bboxes']) == len(results['gt_masks']) == 0


def test_flip_paste__box_without_mask_pixels_stays():
    sample = make_sample(ellipses=(SMALL, Ellipse(60, 150, 20, 20)))
    sample['gt_masks'].masks[1] = 0
    box = sample['gt_bboxes'].tensor[1].clone()
    results = FlipPaste(prob=1.0)(sample)
    assert results['gt_bboxes_labels'].tolist() == [0, 1, 0]
    assert torch.equal(results['gt_bboxes'].tensor[1], box)


def _paste(own: dict, other: dict, seed: int = 0, **settings: object) -> dict:
    _seed(seed)
    transform = PasteInstances(prob=1.0, **settings)
    return transform({**own, 'mix_results': [other]})


def test_paste_instances__shape_label_and_contrast_arrive():
    # 160 on 100 is a factor of 1.6; on a background of 50 the instance has to be 80.
    other = _grey_sample(100, 160, (SMALL,))
    other['gt_bboxes_labels'] = np.array([7])
    own = _grey_sample(50, 50, ())
    for seed in range(8):
        results = _paste(own, other, seed, scale_range=(1, 1))
        assert results['gt_bboxes_labels'].tolist() == [7]
        mask = results['gt_masks'].masks[0]
        assert results['gt_bboxes'].tensor[0].tolist() == extent(mask)
        assert results['img'].dtype == np.uint8
        assert (results['img'][mask > 0] == 80).all()
        # Found again: the ellipse, turned over or not.
        x1, y1, x2, y2 = extent(mask)
        found = mask[y1:y2, x1:x2]
        a, b, c, d = extent(draw(SMALL, 200, 260))
        original = draw(SMALL, 200, 260)[b:d, a:c]
        assert any((found == original[::i, ::j]).all() for i in (1, -1) for j in (1, -1))
        # Nothing is changed farther away than the outline fades.
        far = np.ones((200, 260), bool)
        far[max(y1 - 6, 0) : y2 + 6, max(x1 - 6, 0) : x2 + 6] = False
        assert (results['img'][far] == 50).all()


def test_paste_instances__scaled():
    circle = Ellipse(130, 100, 30, 30)
    results = _paste(
        _grey_sample(50, 50, ()), make_sample(ellipses=(circle,)), scale_range=(0.5, 0.5)
    )
    x1, y1, x2, y2 = results['gt_bboxes'].tensor[0].tolist()
    expected = draw(Ellipse((x1 + x2) / 2, (y1 + y2) / 2, 15, 15), 200, 260)
    assert iou(results['gt_masks'].masks[0], expected) > 0.95


def test_paste_instances__never_covers_much_of_another():
    ellipse = Ellipse(130, 100, 90, 70)
    other = make_sample(ellipses=(Ellipse(100, 100, 40, 40), Ellipse(200, 60, 35, 30)))
    before = make_sample(ellipses=(ellipse,))['gt_masks'].areas[0]
    numbers = []
    for seed in range(30):
        results = _paste(make_sample(ellipses=(ellipse,)), other, seed, max_cover=0.08)
        masks = results['gt_masks'].masks
        numbers.append(len(masks))
        # Each paste takes less than 8 % of what is left.
        assert masks[0].sum() >= 0.92 ** (len(masks) - 1) * before
        assert masks.sum(axis=0).max() == 1
    assert {1, 2} <= set(numbers) <= {1, 2, 3}


def test_paste_instances__only_the_wanted_classes():
    other = make_sample()
    for seed in range(10):
        results = _paste(make_sample(ellipses=()), other, seed, labels=[1])
        assert set(results['gt_bboxes_labels'].tolist()) == {1}
    assert len(_paste(make_sample(ellipses=()), other, labels=[5])['gt_bboxes']) == 0


def test_paste_instances__other_size_and_too_large():
    other = make_sample(400, 500, (Ellipse(250, 200, 150, 120), Ellipse(50, 50, 10, 10)))
    for seed in range(10):
        results = _paste(make_sample(80, 100, ()), other, seed)
        assert set(results['gt_bboxes_labels'].tolist()) <= {1}
        assert results['img'].shape == (80, 100, 3)


def test_paste_instances__does_not_change_the_other_sample():
    other, same = make_sample(), make_sample()
    _paste(make_sample(ellipses=()), other)
    assert (other['img'] == same['img']).all()
    assert (other['gt_masks'].masks == same['gt_masks'].masks).all()


@pytest.mark.parametrize('transform', [FlipPaste(prob=1.0), PasteInstances(prob=1.0)])
def test_pasting__needs_masks(transform):
    sample = make_sample(masks='none')
    with pytest.raises(ValueError, match='with_mask=True'):
        transform({**sample, 'mix_results': [make_sample(masks='none')]})


def test_paste_instances__without_the_wrapper():
    with pytest.raises(ValueError, match='MultiImageMixDataset'):
        PasteInstances()(make_sample())


def test_paste_instances__empty_masks_in_the_other_image():
    other = make_sample()
    other['gt_masks'] = BitmapMasks(np.zeros((2, 200, 260), np.uint8), 200, 260)
    assert len(_paste(make_sample(ellipses=()), other)['gt_bboxes']) == 0


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: FlipPaste(prob=2), 'prob'),
        (lambda: PasteInstances(max_instances=0), 'max_instances'),
        (lambda: PasteInstances(scale_range=(2, 1)), 'scale_range'),
    ],
)
def test_pasting__wrong_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()
