"""The training pipeline of DEIMv2 as a config writes it: what runs in which epoch, in mmdet's wrapper."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import MultiImageMixDataset
from PIL import Image

from mmext.datasets import InstanceDataset
from mmext.engine.hooks.epoch_windows import pipeline_steps
from tests.tiny import make_tiny_coco

SIDE = 64
RESIZE = dict(type='mmdet.Resize', scale=(SIDE, SIDE), keep_ratio=False, backend='pillow')


def recipe(mosaic: float = 0.5, crop: float = 0.8, flip: float = 0.5) -> list[dict]:
    """Policy 2, 4, 6: mosaic in epochs 2 and 3, colours, zoom-out and crop in 2 to 5."""
    return [
        dict(
            type='mmext.InEpochs',
            epochs=(2, 4),
            transforms=[dict(type='mmext.GridMosaic', short_side=SIDE // 2, prob=mosaic)],
        ),
        dict(
            type='mmext.InEpochs',
            epochs=(2, 6),
            transforms=[
                dict(type='mmext.PhotometricDistortion', prob=0.5),
                dict(
                    type='mmext.UnlessMosaic',
                    transforms=[
                        dict(type='mmext.ZoomOut', prob=0.5),
                        dict(type='mmext.IoUCrop', prob=crop),
                    ],
                ),
            ],
        ),
        dict(type='mmext.DropSmallObjects', min_side=1),
        dict(type='mmdet.RandomFlip', prob=flip),
        RESIZE,
        dict(type='mmext.DropSmallObjects', min_side=1),
        dict(type='mmdet.PackDetInputs'),
    ]


@pytest.fixture
def images(tmp_path: Path) -> InstanceDataset:
    return InstanceDataset(
        ann_file=str(make_tiny_coco(tmp_path, 4)),
        data_prefix=dict(img=str(tmp_path / 'images')),
        pipeline=[
            dict(type='mmext.LoadImage'),
            dict(type='mmdet.LoadAnnotations', with_bbox=True),
        ],
    )


def _at_epoch(dataset: MultiImageMixDataset, epoch: int) -> MultiImageMixDataset:
    for step in pipeline_steps(dataset):
        if hasattr(step, 'set_epoch'):
            step.set_epoch(epoch)
    return dataset


def _resized(path: str) -> np.ndarray:
    image = Image.fromarray(cv2.imread(path)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize('epoch', [0, 1, 6], ids=['first', 'before', 'after'])
def test_recipe__outside_the_windows_images_are_only_resized(images, epoch):
    dataset = _at_epoch(MultiImageMixDataset(images, recipe(flip=0.0)), epoch)
    for index in range(4):
        item, info = dataset[index], images.get_data_info(index)
        assert (item['inputs'].numpy() == _resized(info['img_path'])).all()
        assert len(item['data_samples'].gt_instances) == len(info['instances'])


@pytest.mark.parametrize('epoch', [2, 3, 4, 5], ids=['first', 'mosaic', 'without mosaic', 'last'])
def test_recipe__inside_the_windows_samples_are_whole(images, epoch):
    np.random.seed(epoch)  # noqa: NPY002
    dataset = _at_epoch(MultiImageMixDataset(images, recipe()), epoch)
    for index in [0, 1, 2, 3] * 3:
        item = dataset[index]
        sample, truth = item['data_samples'], item['data_samples'].gt_instances
        assert item['inputs'].shape == (3, SIDE, SIDE) and sample.img_shape == (SIDE, SIDE)
        assert len(truth.bboxes) == len(truth.labels)
        boxes = truth.bboxes.tensor
        assert (boxes >= 0).all() and (boxes <= SIDE).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()


def test_recipe__mosaics_are_neither_zoomed_nor_cropped(images):
    dataset = MultiImageMixDataset(images, recipe(mosaic=1))
    seen = []
    zoom, crop = dataset.pipeline[1].transforms.transforms[1].transforms.transforms
    zoom.draw_canvas = lambda size: seen.append('zoom')
    crop.draw_window = lambda size, boxes: seen.append('crop')
    _at_epoch(dataset, 2)[0]
    assert seen == []
    _at_epoch(dataset, 4)[0]
    assert seen == ['zoom', 'crop']
