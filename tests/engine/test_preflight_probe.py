"""The probe of the training pipeline: what loses all objects must stop the run."""

import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmengine.dataset import RepeatDataset
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn

from mmext.engine.hooks import PreflightHook
from mmext.engine.preflight import box_limit
from mmext.engine.preflight_boxes import BoxLimit, check_box_lengths
from mmext.engine.preflight_probe import probe_loading, probe_pipeline, untouched_randomness
from mmext.registry import DATASETS
from mmext.tools import train
from tests.tiny import CLASSES, IMAGE_SIZE, make_tiny_coco, tiny_config

PACK = dict(type='mmdet.PackDetInputs', meta_keys=('img_id',))
LOAD = dict(type='LoadImageFromFile')


def as_run_lengths(path: Path, num_polygons: int = 0, num_crowds: int = 0) -> None:
    """Writes the polygons of an annotation file, but the first few, as compressed run-length codes.

    Args:
        path: the annotation file.
        num_polygons: number of annotations that keep their polygons.
        num_crowds: number of annotations that are marked as crowds.
    """
    content = json.loads(path.read_text())
    for annotation in content['annotations'][num_polygons:]:
        shapes = coco_mask.frPyObjects(annotation['segmentation'], IMAGE_SIZE, IMAGE_SIZE)
        code = coco_mask.merge(shapes)
        annotation['segmentation'] = dict(size=code['size'], counts=code['counts'].decode())
    for annotation in content['annotations'][:num_crowds]:
        annotation['iscrowd'] = 1
    path.write_text(json.dumps(content))


def dataset(root: Path, *transforms: dict, empty: tuple = (), **changes: int) -> object:
    init_default_scope('mmdet')
    as_run_lengths(make_tiny_coco(root, 3, empty=empty), **changes)
    return DATASETS.build(
        dict(
            type='mmdet.CocoDataset',
            data_root=str(root),
            ann_file='train.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=CLASSES),
            pipeline=[LOAD, *transforms, PACK],
        )
    )


def annotations(**options: object) -> dict:
    return dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True, **options)


def test_probe__objects_that_survive(tmp_path):
    assert probe_pipeline('train', dataset(tmp_path, annotations())) == []


def test_probe__run_lengths_that_mmdet_ignores(tmp_path):
    (finding,) = probe_pipeline('train', dataset(tmp_path, annotations(poly2mask=False)))
    assert finding.is_error
    assert 'have 6 of them in the annotations and none after the pipeline' in finding.text
    assert '6 came out marked as ignored' in finding.text
    assert 'remove poly2mask=False' in finding.text


def test_probe__a_filter_that_drops_everything(tmp_path):
    drop = dict(type='mmdet.FilterAnnotations', min_gt_bbox_wh=(60, 60), keep_empty=False)
    (finding,) = probe_pipeline('train', dataset(tmp_path, annotations(), drop))
    assert 'Look at the crops and filters' in finding.text
    assert 'ignored' not in finding.text


@pytest.mark.parametrize('empty', [(0, 1), (0, 1, 2)], ids=['one-image-left', 'none-left'])
def test_probe__images_without_objects_are_not_sent(tmp_path, empty):
    assert probe_pipeline('train', dataset(tmp_path, annotations(), empty=empty)) == []


def test_probe_loading__counts_the_objects_that_mmdet_ignores(tmp_path):
    data = dataset(tmp_path, annotations(poly2mask=False), num_polygons=4)
    assert probe_pipeline('train', data) == []
    (finding,) = probe_loading('train', data)
    assert not finding.is_error
    assert 'train: loading marks 2 objects of the first 3 images' in finding.text
    assert 'remove poly2mask=False' in finding.text


def test_probe_loading__objects_that_survive(tmp_path):
    assert probe_loading('train', dataset(tmp_path, annotations(), num_polygons=4)) == []


def test_probe_loading__crowds_are_no_loss_and_neither_is_what_a_filter_drops(tmp_path):
    drop = dict(type='mmdet.FilterAnnotations', min_gt_bbox_wh=(60, 60), keep_empty=False)
    data = dataset(tmp_path, annotations(), drop, num_crowds=3)
    assert data[1] is None or len(data[1]['data_samples'].gt_instances) == 0
    assert probe_loading('train', data) == []


def test_probe_loading__data_without_loaded_boxes(tmp_path):
    assert probe_loading('train', dataset(tmp_path)) == []


RESIZE = dict(
    type='mmdet.Resize', scale=(256, 256), keep_ratio=True
)  # four times the 14 to 24 pixels


def longest_after(data: object) -> float:
    """Longest side of any object of a data set, as the network sees it."""
    boxes = [data[i]['data_samples'].gt_instances.bboxes.tensor for i in range(len(data))]
    return max(float((box[:, 2:] - box[:, :2]).max()) for box in boxes)


def test_probe__objects_longer_than_any_box_warn(tmp_path):
    data = dataset(tmp_path, annotations(), RESIZE)
    longest = longest_after(data)
    assert 56 < longest <= 100
    (finding,) = probe_pipeline('train', data, BoxLimit('bbox_head', reg_max=2, stride=28))
    assert not finding.is_error
    assert 'of 6 objects that were looked at are longer than 56 pixels' in finding.text
    assert f'(up to {longest:.0f})' in finding.text
    assert 'model.bbox_head with reg_max=2 and stride 28' in finding.text


@pytest.mark.parametrize(
    ('transforms', 'limit'),
    [
        ((RESIZE,), BoxLimit('bbox_head', reg_max=2, stride=50)),
        ((), BoxLimit('bbox_head', reg_max=2, stride=28)),
        ((RESIZE,), None),
    ],
    ids=['a-larger-limit', 'smaller-objects', 'no-limit'],
)
def test_probe__objects_that_fit_into_a_box(tmp_path, transforms, limit):
    assert probe_pipeline('train', dataset(tmp_path, annotations(), *transforms), limit) == []


def test_check_box_lengths__counts_those_beyond_the_limit():
    limit = BoxLimit('bbox_head.det', reg_max=16, stride=32)
    assert limit.pixels == 960
    assert check_box_lengths('train', [10.0, 960.0], limit) == []
    (finding,) = check_box_lengths('train', [10.0, 961.0, 1200.4], limit)
    assert 'train: 2 of 3 objects' in finding.text
    assert '(up to 1200)' in finding.text
    assert 'model.bbox_head.det' in finding.text


def head(**attributes: object) -> nn.Module:
    """A module that knows this much of a head."""
    module = nn.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    ('bbox_head', 'limit'),
    [
        (head(reg_max=16, strides=(8, 16, 32)), ('bbox_head', 16, 32)),
        (head(reg_max=8, strides=(4, 8, 16, 32, 64)), ('bbox_head', 8, 64)),
        (head(det=head(reg_max=16, strides=(8, 16, 32))), ('bbox_head.det', 16, 32)),
        (head(strides=(8, 16, 32)), None),
    ],
    ids=['yolo', 'with-p6', 'wrapped', 'other'],
)
def test_box_limit__of_the_head(bbox_head, limit):
    assert box_limit(head(bbox_head=bbox_head)) == limit


def messages_before_training(dataset: object, model: torch.nn.Module) -> list[str]:
    """What the preflight logs before a training without validation."""
    runner = SimpleNamespace(
        model=model,
        train_dataloader=SimpleNamespace(dataset=dataset),
        train_loop=SimpleNamespace(max_iters=1),
        val_loop=None,
        cfg={},
    )
    logger = MMLogger.get_current_instance()
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    try:
        PreflightHook().before_train(runner)
    finally:
        logger.removeHandler(handler)
    return messages


def test_train__warns_of_objects_longer_than_any_box(tmp_path):
    make_tiny_coco(tmp_path, 3)
    cfg = tiny_config(tmp_path, tmp_path / 'work')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    model = head(bbox_head=head(num_classes=2, reg_max=2, strides=(4, 5)))
    messages = messages_before_training(dataset, model)
    assert [text for text in messages if 'longer than 10 pixels in the network input' in text]


def test_train__warns_of_objects_that_loading_ignores(tmp_path):
    data = dataset(tmp_path, annotations(poly2mask=False), num_polygons=4)
    wrapped = RepeatDataset(data, 2)
    messages = messages_before_training(wrapped, head(bbox_head=head(num_classes=2)))
    warned = [text for text in messages if 'loading marks 2 objects' in text]
    assert warned and 'train_dataloader.dataset.dataset: ' in warned[0]


@pytest.mark.parametrize(
    ('seed', 'draw'),
    [
        (random.seed, random.random),
        (np.random.seed, np.random.rand),
        (torch.manual_seed, lambda: torch.rand(1).item()),
    ],
    ids=['random', 'numpy', 'torch'],
)
def test_untouched_randomness__continues_where_it_was(seed, draw):
    seed(0)
    expected = [draw(), draw()]
    seed(0)
    assert draw() == expected[0]
    with untouched_randomness():
        draw()
    assert draw() == expected[1]


def test_train__stops_before_the_first_step(tmp_path, capsys):
    as_run_lengths(make_tiny_coco(tmp_path, 3))
    cfg = tiny_config(tmp_path, tmp_path / 'work')
    cfg.train_dataloader.dataset.pipeline[1] = annotations(poly2mask=False)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.custom_hooks = [dict(type='mmext.PreflightHook')]
    path = tmp_path / f'{tmp_path.name}.py'
    cfg.dump(path)
    assert train.main([str(path)]) == 2
    messages = capsys.readouterr().err
    assert 'train_dataloader.dataset: the first 3 images with objects have 6 of them' in messages
    assert 'remove poly2mask=False' in messages
    assert 'Traceback' not in messages
    assert not list((tmp_path / 'work').rglob('*.pth'))
