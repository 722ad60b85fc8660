"""Augmentations of a batch: every pixel and box against arithmetic of the test's own."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData

from mmext.models.common import BatchCopyBlend, BatchFirstOf, BatchMixUp
from mmext.registry import MODELS

SIZE = 40
BOXES = [
    [[2.5, 3.0, 14.5, 15.0]],  # 12 x 12
    [],
    [[20.0, 1.0, 39.0, 11.0], [0.0, 30.0, 9.0, 39.0]],  # 19 x 10 and 9 x 9
]


def make_batch(
    boxes: list = BOXES, *, masks: bool = False, size: int = SIZE
) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Random images and their samples; labels count on over the batch."""
    images = torch.rand(len(boxes), 3, size, size, generator=torch.Generator().manual_seed(0))
    samples, label = [], 0
    for own in boxes:
        instances = InstanceData(
            bboxes=torch.tensor(own).reshape(-1, 4),
            labels=torch.arange(label, label + len(own)),
        )
        if masks:
            planes = np.zeros((len(own), size, size), np.uint8)
            for plane, (x1, y1, x2, y2) in zip(planes, np.array(own, int), strict=True):
                plane[y1:y2, x1:x2] = 1
            instances.masks = BitmapMasks(planes, size, size)
        label += len(own)
        ignored = InstanceData(bboxes=torch.full((1, 4), float(label)), labels=torch.tensor([99]))
        sample = DetDataSample(
            gt_instances=instances, ignored_instances=ignored, metainfo=dict(img_shape=(size, size))
        )
        samples.append(sample)
    return images, samples


def _labels(samples: list[DetDataSample]) -> list[list[int]]:
    return [sample.gt_instances.labels.tolist() for sample in samples]


def test_mixup__each_image_with_the_one_before_it():
    np.random.seed(0)  # noqa: NPY002
    images, samples = make_batch()
    before = images.clone()
    mixed, samples = BatchMixUp(beta_range=(0.3, 0.3), prob=1)(images, samples)
    for index in range(3):
        expected = 0.3 * before[index] + 0.7 * before[index - 1]
        torch.testing.assert_close(mixed[index], expected)
    assert torch.equal(images, before)
    assert _labels(samples) == [[0, 1, 2], [0], [1, 2]]
    assert samples[0].gt_instances.bboxes.tolist() == BOXES[0] + BOXES[2]
    assert samples[1].ignored_instances.bboxes[:, 0].tolist() == [1, 1]
    assert samples[0].ignored_instances.bboxes[:, 0].tolist() == [1, 3]


def test_mixup__masks_are_joined():
    _, samples = BatchMixUp(prob=1)(*make_batch(masks=True))
    masks = samples[0].gt_instances.masks
    assert [int(mask.sum()) for mask in masks] == [12 * 12, 19 * 10, 9 * 9]


def test_mixup__one_image_stays_as_it_is():
    images, samples = make_batch(BOXES[:1])
    mixed, samples = BatchMixUp(prob=1)(images, samples)
    assert mixed is images and _labels(samples) == [[0]]


def test_mixup__draws():
    np.random.seed(0)  # noqa: NPY002
    augment = BatchMixUp()
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 8, 8)
    samples = [DetDataSample(metainfo=dict(img_shape=(8, 8))) for _ in range(2)]
    betas = []
    for _ in range(200):
        mixed, _ = augment(images, samples)
        if mixed is not images:
            betas.append(mixed[1].mean().item())
    # .5 of 200, deviation 7.
    assert 70 < len(betas) < 130
    assert 0.45 <= min(betas) < 0.455 and 0.545 < max(betas) <= 0.55


def _blend(boxes: list, **settings) -> tuple:
    images, samples = make_batch(boxes)
    before = images.clone()
    blended, samples = BatchCopyBlend(prob=1, **settings)(images, samples)
    assert torch.equal(images, before)
    return before, blended, samples


def test_copy_blend__pixels_and_boxes():
    # One object to draw, 12 x 12 in the first image, grown by a quarter: 3 pixels a side.
    np.random.seed(3)  # noqa: NPY002
    before, blended, samples = _blend(
        [BOXES[0], [], []], growth_range=(0.25, 0.25), beta_range=(0.4, 0.4)
    )
    assert _labels(samples) == [[0, 0], [0], [0]]
    for index, sample in enumerate(samples):
        x1, y1, x2, y2 = box = sample.gt_instances.bboxes[-1].tolist()
        dx, dy = int(x1 - 2.5), int(y1 - 3)
        assert box == [2.5 + dx, 3.0 + dy, 14.5 + dx, 15.0 + dy]
        assert 0 <= x1 and 0 <= y1 and x2 <= SIZE and y2 <= SIZE
        expected = before[index].clone()
        for y in range(SIZE):
            for x in range(SIZE):
                # The box grown by 3, widened to whole pixels; both images end at 0 and 40.
                u, v = x - dx, y - dy
                if -1 <= u < 18 and 0 <= v < 18 and 0 <= u < SIZE and 0 <= v < SIZE:
                    own, other = before[index, :, y, x], before[0, :, v, u]
                    expected[:, y, x] = 0.4 * own + 0.6 * other
        torch.testing.assert_close(blended[index], expected)


def test_copy_blend__small_objects_stay_at_home():
    # 9 x 9 = 81 pixels are too small; 12 x 12 and 19 x 10 are not.
    np.random.seed(0)  # noqa: NPY002
    _, _, samples = _blend(BOXES)
    own = [[0], [], [1, 2]]
    for labels, start in zip(_labels(samples), own, strict=True):
        assert labels[: len(start)] == start
        assert sorted(labels[len(start) :]) == [0, 1]
    assert all(len(sample.ignored_instances) == 1 for sample in samples)


def test_copy_blend__at_most_three_different_objects():
    np.random.seed(0)  # noqa: NPY002
    boxes = [[[float(x), 0.0, x + 11.0, 11.0] for x in range(0, 28, 4)], []]
    _, _, samples = _blend(boxes)
    added = samples[1].gt_instances
    assert len(added) == len(set(added.labels.tolist())) == 3
    assert torch.equal(added.bboxes[:, 2:] - added.bboxes[:, :2], torch.full((3, 2), 11.0))


def test_copy_blend__places_are_uniform():
    np.random.seed(0)  # noqa: NPY002
    augment = BatchCopyBlend()
    patches = [
        augment.draw_patch(np.float32([2.5, 0.0, 12.5, 40.0]), (SIZE, SIZE)) for _ in range(2000)
    ]
    moves = np.array([patch.move for patch in patches])
    # From 2.5 the box can go 2 to the left and 27 to the right; it is as high as the image.
    values, counts = np.unique(moves[:, 0], return_counts=True)
    assert values.tolist() == list(range(-2, 28)) and counts.min() > 30
    assert set(moves[:, 1]) == {0}
    right = np.array([patch.window[2] for patch in patches if patch.move[0] < 20])
    # Grown by 1 to 2.5 pixels and rounded up.
    assert set(right) == {14, 15}


def test_copy_blend__a_box_over_the_edge_stays_there():
    patch = BatchCopyBlend().draw_patch(np.float32([-1, -1, 41, 41]), (SIZE, SIZE))
    assert patch == ((0, 0, SIZE, SIZE), (0, 0))


@pytest.mark.parametrize('boxes', [[[], []], [[[0.0, 0.0, 9.0, 9.0]], []]], ids=['none', 'small'])
def test_copy_blend__nothing_to_draw(boxes):
    images, samples = make_batch(boxes)
    blended, samples = BatchCopyBlend(prob=1)(images, samples)
    assert blended is images and _labels(samples) == [[0] * len(boxes[0]), []]


def test_copy_blend__masks_are_refused():
    with pytest.raises(ValueError, match='masks'):
        BatchCopyBlend(prob=1)(*make_batch(masks=True))


def _first_of(mixup: float, copy_blend: float) -> BatchFirstOf:
    return MODELS.build(
        dict(
            type='mmext.BatchFirstOf',
            augments=[
                dict(type='mmext.BatchMixUp', prob=mixup, epochs=(1, 3)),
                dict(type='mmext.BatchCopyBlend', prob=copy_blend, epochs=(1, 4)),
            ],
        )
    )


@pytest.mark.parametrize(
    ('epoch', 'expected'),
    [(0, [1, 0, 2]), (1, [3, 1, 2]), (2, [3, 1, 2]), (3, [3, 2, 4]), (4, [1, 0, 2])],
)
def test_first_of__mixup_comes_before_copy_blend(epoch, expected):
    augment = _first_of(1, 1)
    augment.set_epoch(epoch)
    _, samples = augment(*make_batch())
    assert [len(sample.gt_instances) for sample in samples] == expected


def test_first_of__copy_blend_where_mixup_did_not_fire():
    np.random.seed(0)  # noqa: NPY002
    mixup, copy_blend = (
        dict(type=f'mmext.Batch{kind}', prob=0.5) for kind in ('MixUp', 'CopyBlend')
    )
    augment = BatchFirstOf([mixup, copy_blend])
    for own, name in zip(augment.augments, ('mixup', 'copy-blend'), strict=True):
        own.augment = lambda inputs, samples, name=name: (name, samples)
    names = Counter(augment('neither', [])[0] for _ in range(1000))
    # Deviation 14 to 16.
    assert names['mixup'] == pytest.approx(500, abs=64)
    assert names['copy-blend'] == pytest.approx(250, abs=56)


def test_augments__same_seed_same_batch():
    results = []
    for _ in range(2):
        np.random.seed(7)  # noqa: NPY002
        augment = _first_of(0.5, 1)
        augment.set_epoch(1)
        results.append([augment(*make_batch())[0] for _ in range(4)])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_augments__in_the_data_preprocessor_of_mmdet():
    augments = [dict(type='mmext.BatchMixUp', prob=1, beta_range=(0.5, 0.5))]
    preprocessor = DetDataPreprocessor(mean=[0] * 3, std=[255] * 3, batch_augments=augments)
    _, samples = make_batch()
    images = [torch.full((3, SIZE, SIZE), value, dtype=torch.uint8) for value in (0, 255, 51)]
    data = preprocessor(dict(inputs=images, data_samples=samples), training=True)
    assert data['inputs'][:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.5, 0.6])
    assert _labels(data['data_samples']) == [[0, 1, 2], [0], [1, 2]]
    _, samples = make_batch()
    data = preprocessor(dict(inputs=images, data_samples=samples), training=False)
    assert _labels(data['data_samples']) == [[0], [], [1, 2]]


def test_augments__warn_once_about_an_unknown_epoch(caplog):
    logger = MMLogger.get_instance('batch-augments')
    logger.addHandler(caplog.handler)
    augment = BatchMixUp(prob=1, epochs=(1, 2))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert _labels(augment(*make_batch())[1]) == [[0], [], [1, 2]]
    logger.removeHandler(caplog.handler)
    assert [record.getMessage().count('EpochWindowsHook') for record in caplog.records] == [1]


def test_augments__padded_images_are_refused():
    images, samples = make_batch()
    samples[1].set_metainfo(dict(img_shape=(30, 40)))
    with pytest.raises(ValueError, match=r'\(30, 40\)'):
        BatchMixUp(prob=1)(images, samples)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: BatchMixUp(prob=1.5), 'prob'),
        (lambda: BatchMixUp(beta_range=(0.6, 0.5)), 'beta_range'),
        (lambda: BatchMixUp(epochs=(3, 3)), 'epochs'),
        (lambda: BatchCopyBlend(max_objects=0), 'max_objects'),
        (lambda: BatchCopyBlend(growth_range=(-0.1, 0.2)), 'growth_range'),
    ],
    ids=['prob', 'beta', 'epochs', 'count', 'growth'],
)
def test_augments__wrong_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()
