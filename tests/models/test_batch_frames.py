"""What batch augmentations say to images that do not fill the batch."""

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmext.models.common.batch_augments import BatchMixUp


def prepare(*sizes: tuple[int, int]) -> dict:
    """Images of (height, width) as training gets them, each with a box."""
    preprocessor = DetDataPreprocessor(pad_size_divisor=32)
    preprocessor.batch_augments = torch.nn.ModuleList([BatchMixUp(prob=1)])
    samples = []
    for height, width in sizes:
        truth = InstanceData(bboxes=torch.tensor([[1.0, 1, 9, 9]]), labels=torch.tensor([0]))
        meta = dict(img_shape=(height, width), ori_shape=(height, width))
        samples.append(DetDataSample(metainfo=meta, gt_instances=truth))
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
    return preprocessor(dict(inputs=images, data_samples=samples), training=True)


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        (
            [(60, 90), (60, 90)],
            r'got images of \(60, 90\) .* pads to \(64, 96\).*multiples of its pad_size_divisor, such as \(64, 96\)',
        ),
        (
            [(64, 96), (64, 64)],
            r'got an image of \(64, 64\) .*in a batch of \(64, 96\).*keep_ratio=False',
        ),
    ],
    ids=['no multiple of the divisor', 'different sizes'],
)
def test_check_frames__says_what_to_change(sizes: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(*sizes)


def test_check_frames__images_that_fill_the_batch() -> None:
    assert prepare((64, 96), (64, 96))['inputs'].shape == (2, 3, 64, 96)
