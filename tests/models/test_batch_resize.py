"""BatchRandomSize: the list of sizes, and everything in the new frame."""

from collections import Counter

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample

from mmext.models.common import BatchRandomSize
from mmext.models.common.batch_resize import weighted_sizes
from tests.models.test_batch_augments import make_batch

BOXES = [[[16.0, 32.0, 96.0, 100.0]], []]


@pytest.mark.parametrize(
    ('base', 'repeat', 'expected'),
    [
        (
            640,
            3,
            [480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800],
        ),
        (320, 1, [256, 288, 320, 352, 384]),
    ],
)
def test_weighted_sizes__around_the_base(base, repeat, expected):
    assert weighted_sizes(base, repeat) == expected


def _resized(size: int, **settings) -> tuple[torch.Tensor, torch.Tensor, list[DetDataSample]]:
    augment = BatchRandomSize(128, repeat=1)
    augment.sizes = [size]
    images, samples = make_batch(BOXES, size=128, **settings)
    return images, *augment(images, samples)


@pytest.mark.parametrize('size', [96, 160])
def test_random_size__nearest_pixels_and_objects_in_step(size):
    before, images, samples = _resized(size, masks=True)
    source = [int(i * 128 / size) for i in range(size)]
    assert torch.equal(images, before[:, :, source][:, :, :, source])
    ratio = size / 128
    expected = torch.tensor(BOXES[0]) * ratio
    assert torch.equal(samples[0].gt_instances.bboxes, expected)
    assert torch.equal(samples[0].ignored_instances.bboxes, torch.ones(1, 4) * ratio)
    assert samples[1].gt_instances.bboxes.shape == (0, 4)
    for sample in samples:
        assert sample.img_shape == sample.pad_shape == sample.batch_input_shape == (size, size)
        assert (sample.gt_instances.masks.height, sample.gt_instances.masks.width) == (size, size)
    mask = samples[0].gt_instances.masks.masks[0].astype(bool)
    x, y = np.array(source), np.array(source)[:, None]
    assert (mask == ((16 <= x) & (x < 96) & (32 <= y) & (y < 100))).all()


def test_random_size__the_base_size_changes_nothing():
    before, images, samples = _resized(128)
    assert images is before and samples[0].gt_instances.bboxes.tolist() == BOXES[0]


def test_random_size__weights_and_window():
    np.random.seed(0)  # noqa: NPY002
    augment = BatchRandomSize(128, repeat=6, epochs=(0, 2))
    inputs, samples = torch.zeros(1, 1, 128, 128), make_batch([[]], size=128)[1]
    counts: Counter = Counter()
    for epoch in range(3):
        augment.set_epoch(epoch)
        for _ in range(200):
            images, _ = augment(inputs, samples)
            samples[0].set_metainfo(dict(img_shape=(128, 128)))
            counts[epoch, images.shape[-1]] += 1
    # 96, 6 times 128, 160: 6/8 of 200 are 150, deviation 6.
    assert all(counts[epoch, 128] == pytest.approx(150, abs=24) for epoch in range(2))
    assert all(counts[epoch, size] > 5 for epoch in range(2) for size in (96, 160))
    assert counts[2, 128] == 200


def test_random_size__other_images_than_announced():
    with pytest.raises(ValueError, match='base_size=640'):
        BatchRandomSize(640, repeat=1)(*make_batch(BOXES, size=128))


@pytest.mark.parametrize('settings', [(650, 1), (64, 1), (640, 0)], ids=['650', 'small', 'repeat'])
def test_random_size__wrong_settings(settings):
    with pytest.raises(ValueError, match='multiple of 32'):
        BatchRandomSize(settings[0], repeat=settings[1])
