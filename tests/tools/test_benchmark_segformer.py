"""The benchmark of SegFormer: one run, and its answers to mistakes."""

import pytest
import torch

from mmext.tools import benchmark_segformer
from tests.one_message import one_error


@pytest.mark.parametrize(
    ('option', 'message'),
    [('--side', '--side: got 0, expected at least 32'), ('--classes', 'expected at least 2')],
)
def test_main__mistakes(option: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert benchmark_segformer.main([option, '0']) == 2
    assert message in one_error(capsys)


@pytest.mark.slow
def test_main__table(tmp_path, capsys):
    threads, out = torch.get_num_threads(), tmp_path / 'out' / 'table.md'
    arguments = ['--side', '64', '--classes', '5', '--repeat', '1', '--warmup', '0']
    assert benchmark_segformer.main([*arguments, '--out', str(out)]) == 0
    torch.set_num_threads(threads)
    assert capsys.readouterr().out.endswith(out.read_text())
    lines = [line for line in out.read_text().splitlines() if line.startswith('| ')]
    rows = [line.strip('| ').split(' | ') for line in lines[2:]]
    assert [row[0] for row in rows] == [
        'mmseg',
        'mmext FastSegformerHead',
        'FastSegformerHead, deployed',
        'transformers',
        'mmext SegformerMLPHead',
        'SegformerMLPHead, deployed',
    ]
    assert all(float(cell) > 0 for row in rows for cell in row[1:7])
    # Logits of both sides, which have the same weights.
    assert all(float(row[7]) < 1e-4 for row in rows)
