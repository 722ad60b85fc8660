"""Result files of tests and of trainings."""

import pytest
import torch
from mmengine.runner import Runner

from mmext.evaluation.result_files import read_result_file
from mmext.tools import test as test_tool
from tests.tiny import make_tiny_coco, tiny_segment_config


@pytest.mark.slow
def test_read_result_file__what_the_test_tool_leaves(tmp_path):
    make_tiny_coco(tmp_path, 2)
    make_tiny_coco(tmp_path, 2, split='val', seed=1)
    cfg = tiny_segment_config(tmp_path, tmp_path / 'work')
    cfg.test_evaluator = dict(
        type='mmext.InstanceCocoMetric', ann_file=str(tmp_path / 'val.json'), classwise=True
    )
    cfg.dump(tmp_path / 'tiny_result.py')
    model = Runner.from_cfg(cfg).model
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'model.pth')
    assert test_tool.main([str(tmp_path / 'tiny_result.py'), str(tmp_path / 'model.pth')]) == 0
    (path,) = (tmp_path / 'work').glob('*/*.json')
    scores = read_result_file(path)
    for metric in ('bbox', 'segm', 'boundary'):
        assert {f'{metric}_mAP_75', f'{metric}_mAP_s', f'{metric}_square_mAP_50'} <= set(scores)
    assert 0 <= scores['boundary_matched'] <= 1


def test_read_result_file__of_a_test(tmp_path):
    path = tmp_path / 'test.json'
    path.write_text('{"coco/segm_mAP": 0.2, "coco/bbox_mAP": 0.4,\n "data_time": 0.1}')
    assert read_result_file(path) == dict(segm_mAP=0.2, bbox_mAP=0.4)


def test_read_result_file__last_validation_of_a_training(tmp_path):
    path = tmp_path / 'scalars.json'
    path.write_text(
        '{"loss": 3.0, "step": 1}\n{"coco/segm_mAP": 0.1, "step": 1}\n'
        '{"coco/segm_mAP": 0.3, "step": 2}\n{"loss": 2.0, "step": 3}\n'
    )
    assert read_result_file(path) == dict(segm_mAP=0.3)


@pytest.mark.parametrize('text', ['{"loss": 1.0}', 'no json', '', '[1]'], ids=str)
def test_read_result_file__file_without_scores_is_refused(tmp_path, text):
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(ValueError, match='a.json'):
        read_result_file(path)
