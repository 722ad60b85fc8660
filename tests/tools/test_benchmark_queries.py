"""The benchmark of the query decoder: one run, and its answers to mistakes."""

import pytest
import torch

from mmext.tools import benchmark_queries
from mmext.tools.benchmark_queries import parse_args, read_head_config, time_in_turn


def test_read_head_config__of_mmdet_is_the_published_head():
    config = read_head_config(parse_args([]))
    assert (config.num_queries, config.transformer_decoder.num_layers) == (100, 9)
    assert config.train_cfg.num_points == 12544


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--size', '500'], '--size: got 500, expected a multiple of 32'),
        (['--repeat', '0'], '--repeat: got 0, expected at least 1'),
        pytest.param(
            ['--config', 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'],
            'with the panoptic_head None, expected one of',
            marks=pytest.mark.slow,  # a quarter of a second
        ),
    ],
    ids=['size', 'repeat', 'config'],
)
def test_read_head_config__mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        read_head_config(parse_args(arguments))


def test_time_in_turn__every_round_runs_all():
    calls: list[str] = []
    works = [lambda: calls.append('a'), lambda: calls.append('b')]
    assert time_in_turn(works, repeat=3, warmup=1).shape == (2, 2, 3)
    assert ''.join(calls) == 'abababab'


@pytest.mark.slow
def test_main__table(tmp_path, capsys):
    threads = torch.get_num_threads()
    out = tmp_path / 'out' / 'table.md'
    arguments = ['--size', '64', '--objects', '2', '--repeat', '1', '--warmup', '0']
    assert benchmark_queries.main([*arguments, '--out', str(out)]) == 0
    torch.set_num_threads(threads)
    assert capsys.readouterr().out.endswith(out.read_text())
    rows = [line.split(' | ') for line in out.read_text().splitlines() if line.startswith('| ')]
    names = [row[0].strip('| ') for row in rows[2:]]
    assert names[0] == 'prediction (ms)' and names[-1] == 'peak of a training step (MB)'
    assert all(float(row[3].strip(' |')) > 0 for row in rows[2:])
