"""The preflight against annotation files that metrics read by themselves."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from mmext.datasets import InstanceDataset
from mmext.engine.hooks import PreflightHook
from mmext.engine.preflight_evaluators import (
    check_evaluator,
    explain_unbuilt_evaluator,
    metric_configs,
)
from mmext.registry import EVALUATOR
from tests.tiny import CLASSES, make_tiny_coco

DUMP = dict(type='DumpResults', out_file_path='out.pkl')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_tiny_coco(tmp_path, 3)
    make_tiny_coco(tmp_path, 2, split='other', seed=1)
    return tmp_path


def coco(path: Path) -> dict:
    return dict(type='mmdet.CocoMetric', ann_file=str(path), metric='segm')


@pytest.mark.parametrize(
    ('cfg', 'metrics'),
    [
        (DUMP, [DUMP]),
        ([DUMP, DUMP], [DUMP, DUMP]),
        (dict(type='Evaluator', metrics=[DUMP]), [DUMP]),
        (dict(metrics=DUMP), [DUMP]),
    ],
    ids=['one', 'list', 'evaluator', 'evaluator of one'],
)
def test_metric_configs(cfg, metrics):
    assert metric_configs(cfg) == metrics


def make_data(root: Path) -> InstanceDataset:
    """The tiny data set, to be scored on."""
    return InstanceDataset(
        data_root=str(root),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
    )


def check_test(root: Path, cfg: ConfigDict) -> None:
    """The preflight of a test run of the tiny data set, with an evaluator built from a config."""
    head = nn.Module()
    head.num_classes = 2
    dataset = make_data(root)
    with DefaultScope.overwrite_default_scope('mmdet'):
        evaluator = EVALUATOR.build(dict(type='Evaluator', metrics=metric_configs(cfg)))
    PreflightHook().before_test(
        SimpleNamespace(
            model=nn.ModuleDict(dict(bbox_head=head)),
            test_dataloader=SimpleNamespace(dataset=dataset),
            test_evaluator=evaluator,
            cfg=ConfigDict(test_evaluator=cfg),
        )
    )


def test_hook__metric_with_the_file_of_the_data_set(root: Path) -> None:
    check_test(root, ConfigDict(coco(root / 'train.json')))


@pytest.mark.parametrize('wrap', [lambda metric: metric, lambda metric: [DUMP, metric]])
def test_hook__metric_with_another_annotation_file_is_named(root: Path, wrap) -> None:
    """CocoMetric itself forgets its file, so the name comes from the config."""
    other = coco(root / 'other.json')
    assert not hasattr(CocoMetric(ann_file=other['ann_file']), 'ann_file')
    message = rf'set test_evaluator\.ann_file \(now {other["ann_file"]}\) to the ann_file of test_dataloader'
    with pytest.raises(ValueError, match=message):
        check_test(root, wrap(ConfigDict(other)))


@pytest.mark.parametrize('metric', ['segm', 'boundary'])
def test_hook__masks_that_cannot_be_scored_stop_the_run(root: Path, metric: str) -> None:
    """The data set leaves the object out, and the metric would die on it after the first epoch."""
    path = root / 'train.json'
    content = json.loads(path.read_text())
    content['annotations'][1]['segmentation'] = [[1, 1, 9, 9]]
    path.write_text(json.dumps(content))
    evaluator = SimpleNamespace(
        metrics=[SimpleNamespace(metrics=['bbox', metric], _coco_api=COCO(str(path)))]
    )
    dataset = make_data(root)
    (finding,) = check_evaluator('val_dataloader', [dataset], evaluator, coco(path))
    assert finding.is_error
    assert finding.text.startswith(
        'val_evaluator.ann_file: 1 objects have a polygon that is not three or more points'
    )
    assert finding.text.endswith('mend or remove the annotations 2')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'The annotation file .*ann.json does not exist'),
        ('<html>', 'ann.json is not JSON'),
        (
            json.dumps(
                dict(
                    images=[dict(id=1, height=9, width=9)],
                    annotations=[dict(id=7, image_id=1, segmentation=[])],
                )
            ),
            'ann.json: 1 objects have no segmentation .* the annotations 7',
        ),
    ],
    ids=['missing', 'no json', 'no mask'],
)
def test_explain_unbuilt__names_the_line_and_the_file(tmp_path, content, message):
    path = tmp_path / 'ann.json'
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf'a\.py: val_evaluator\.ann_file: .*{message}'):
        explain_unbuilt_evaluator([DUMP, coco(path)], 'a.py: val_evaluator')


def test_explain_unbuilt__sound_file_and_metrics_without_one(tmp_path):
    (tmp_path / 'ann.json').write_text(json.dumps({'any': 'json'}))
    explain_unbuilt_evaluator([DUMP, coco(tmp_path / 'ann.json'), None], 'val_evaluator')
    explain_unbuilt_evaluator(None, 'val_evaluator')
