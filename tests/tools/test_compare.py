"""The comparison: its table, its result files, and its answers to mistakes."""

import json

import pytest
from mmengine.config import Config

from mmext.tools import compare
from mmext.tools.compare import read_scores, score_cell
from tests.tiny import tiny_segment_model


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'tiny_segment.py'
    Config(dict(default_scope='mmdet', model=tiny_segment_model())).dump(path)
    return str(path)


def cells(table: str) -> dict[str, list[str]]:
    """Rows of a Markdown table by their first cell."""
    rows = [line.strip('| ').split(' | ') for line in table.splitlines() if line.startswith('|')]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.slow
def test_main__table_of_two_configs(config, tmp_path, capsys):
    result = tmp_path / 'result.json'
    result.write_text(json.dumps({'coco/segm_mAP': 0.25, 'coco/bbox_mAP': 0.5, 'time': 0.1}))
    out = tmp_path / 'out' / 'table.md'
    arguments = ['--size', '128', '--photo-size', '300x200', '--num-detections', '12']
    arguments += ['--repeat', '2', '--warmup', '0', '--results', str(result), 'none']
    assert compare.main([config, config, *arguments, '--out', str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(out.read_text())  # after the log
    rows = cells(printed)
    assert len(rows['parameters (M)']) == 2
    assert rows['objects that post-processing finds'] == ['12', '12']
    for name in (
        *compare.STAGE_ROWS.values(),
        compare.PROCESSOR_ROW,
        *compare.MEMORY_ROWS.values(),
    ):
        assert len(rows[name]) == 2
    assert all(float(value) > 0 for value in rows[compare.MEMORY_ROWS['net']])
    assert (rows['segm_mAP'], rows['bbox_mAP']) == (['0.250', '-'], ['0.500', '-'])
    assert 'time' not in rows


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--checkpoints', 'gone.pth'], 'checkpoint gone.pth does not exist'),
        (['--checkpoints', 'a', 'b'], '--checkpoints: got 2 for 1 configs'),
        (['--results', 'gone.json'], "No such file or directory: 'gone.json'"),
        (['--photo-size', '1920'], "--photo-size: got '1920', expected WxH"),
        (['--repeat', '0'], '--repeat: got 0, expected at least 1'),
        (['--num-detections', '-1'], '--num-detections: got -1'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_main__a_mistake_is_one_message(config, arguments, message, capsys):
    assert compare.main([config, *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert 'Traceback' not in errors


def test_main__missing_config(capsys):
    assert compare.main(['gone.py']) == 2
    assert 'config gone.py does not exist' in capsys.readouterr().err


def test_main__too_many_objects_for_the_photo_name_the_config(config, capsys):
    assert compare.main([config, '--size', '64', '--num-detections', '5000']) == 2
    errors = capsys.readouterr().err
    assert f'{config}: got 5000 detections to plant' in errors


def test_read_scores__of_several_seeds(tmp_path):
    paths = [tmp_path / 'seed0.json', tmp_path / 'seed1.json']
    paths[0].write_text('{"coco/segm_mAP": 0.2, "coco/bbox_mAP": 0.4}')
    paths[1].write_text('{"coco/segm_mAP": 0.3}')
    scores = read_scores(f'{paths[0]},{paths[1]}')
    assert scores == dict(segm_mAP=[0.2, 0.3], bbox_mAP=[0.4])
    assert read_scores('none') == {}


@pytest.mark.parametrize(
    ('values', 'cell'),
    [
        ([0.25], '0.250'),
        ([0.2, 0.3], '0.250 (0.200 to 0.300)'),
        ([-1.0], '-'),
        ([float('nan')], '-'),
        ([], '-'),
    ],
    ids=['one', 'seeds', 'no object', 'no class', 'not scored'],
)
def test_score_cell__mean_and_range(values, cell):
    assert score_cell(values) == cell
