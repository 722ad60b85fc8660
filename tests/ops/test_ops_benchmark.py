"""The benchmark's command line: bad folders, and that its rows run on the torch ops."""

import sys

import pytest

from mmext.tools import benchmark_ops


def test_benchmark__folder_without_compiled_mmcv_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['benchmark_ops.py', '--compiled', str(tmp_path)])
    with pytest.raises(SystemExit):
        benchmark_ops.main()
    assert f'{tmp_path}: found no file mmcv/_ext*.so' in capsys.readouterr().err


def test_benchmark__row_shows_both_times_and_their_ratio():
    ops = benchmark_ops.torch_ops()
    rows = benchmark_ops.nms_rows(ops, ops)
    name, ours, other, ratio = benchmark_ops.measure(rows[0], repeats=1).rsplit(maxsplit=3)
    assert name == 'nms, 1000 boxes, crowds'
    # The times are printed to 0.01 ms, so their quotient is a little coarser than the ratio.
    assert float(ratio) == pytest.approx(float(ours) / float(other), rel=0.1)


def test_benchmark__row_without_a_counterpart_has_no_ratio():
    rows = benchmark_ops.nms_rows(benchmark_ops.torch_ops(), None)
    assert benchmark_ops.measure(rows[0], repeats=1).split()[-2:] == ['-', '-']
