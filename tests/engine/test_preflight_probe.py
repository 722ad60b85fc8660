"""The probe of the training pipeline: what loses all objects must stop the run."""

import json
import random
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmengine.registry import init_default_scope

from mmext.engine.preflight_probe import probe_pipeline, untouched_randomness
from mmext.registry import DATASETS
from mmext.tools import train
from tests.tiny import CLASSES, IMAGE_SIZE, make_tiny_coco, tiny_config

PACK = dict(type='mmdet.PackDetInputs', meta_keys=('img_id',))
LOAD = dict(type='LoadImageFromFile')


def as_run_lengths(path: Path) -> None:
    """Writes the polygons of an annotation file as compressed run-length codes."""
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        shapes = coco_mask.frPyObjects(annotation['segmentation'], IMAGE_SIZE, IMAGE_SIZE)
        code = coco_mask.merge(shapes)
        annotation['segmentation'] = dict(size=code['size'], counts=code['counts'].decode())
    path.write_text(json.dumps(content))


def dataset(root: Path, *transforms: dict, empty: tuple = ()) -> object:
    init_default_scope('mmdet')
    as_run_lengths(make_tiny_coco(root, 3, empty=empty))
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
