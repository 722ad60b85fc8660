"""The benchmark of cut-outs measures and writes what it promises."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmext.apis.background import BackgroundRemover
from mmext.apis.cutout import PartSeconds
from mmext.tools import benchmark_background
from tests.one_message import one_error

LIGHT = (
    Path(__file__).resolve().parents[2]
    / 'configs/attn_unet/attn-unet_light_1xb8-150e_person-parsing-256x256.py'
)


def half(image: np.ndarray) -> np.ndarray:
    return np.full((9, 16), 0.5, np.float32)


@pytest.fixture
def same_threads() -> Iterator[None]:
    """The numbers of threads are those from before."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, same_threads: None) -> None:
    """A function for a network, and smaller photos."""

    def build(subject, clock=benchmark_background.time.perf_counter):
        return BackgroundRemover(half, foreground=subject.foreground, clock=clock)

    monkeypatch.setattr(benchmark_background.Subject, 'build', build)
    monkeypatch.setitem(benchmark_background.SIZES, '1080p', (54, 96))


def test_main__a_row_for_every_part(fast: None, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / 'new' / 'table.md'
    options = ['--fg', 'blur', 'none', '--repeat', '2', '--warmup', '0', '--out', str(out)]
    assert benchmark_background.main(['config.py', 'none', *options]) == 0
    text = out.read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| ')][2:]
    parts = [*PartSeconds._fields, 'total']
    assert [row[:2] for row in rows] == [
        [f'| {method}', part] for method in ('blur', 'none') for part in parts
    ]
    for row in rows:
        half_time, most = float(row[2]), float(row[3])
        assert 0 <= half_time <= most


@pytest.mark.slow
def test_main__time_and_memory_with_the_network(
    same_threads: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for name in ('1080p', '4k'):
        monkeypatch.setitem(benchmark_background.SIZES, name, (108, 192))
    # 'ml' is the one whose threads forbid forks, if nothing is done about it.
    options = ['--fg', 'ml', 'none', '--repeat', '1', '--warmup', '0', '--memory', '4k']
    assert benchmark_background.main([str(LIGHT), 'none', *options]) == 0
    rows = [line.split(' | ') for line in capsys.readouterr().out.splitlines()]
    peaks = {row[0].strip('| '): float(row[3]) for row in rows if row[1:2] == ['4k']}
    assert set(peaks) == {'ml', 'none'} and min(peaks.values()) >= 0


def test_draw_photo__has_a_person_with_soft_edges():
    photo = benchmark_background.draw_photo((270, 480))
    assert photo.shape == (270, 480, 3)
    assert photo[110, 240].tolist() == [220, 170, 150]
    assert np.ptp(photo[:20], axis=(0, 1)).min() > 100


@pytest.mark.parametrize('option', ['--repeat', '--threads'])
def test_mistakes__one_message(fast: None, capsys: pytest.CaptureFixture, option: str):
    assert benchmark_background.main(['config.py', 'none', option, '0']) == 2
    assert f'{option}: got 0, expected at least 1' in one_error(capsys)


def test_mistakes__missing_checkpoint(fast: None, capsys: pytest.CaptureFixture):
    assert benchmark_background.main(['config.py', 'gone.pth']) == 2
    assert 'gone.pth does not exist' in one_error(capsys)
