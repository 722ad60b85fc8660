"""Two processes on the CPU: the same weights in both, the metric of one process, and no waiting for ever."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmext.tools import test as test_tool
from tests.tiny import make_tiny_coco, tiny_config

WORKER = Path(__file__).with_name('dist_worker.py')


def torchrun(arguments: list[object]) -> None:
    """Runs a script or module in two processes; a hang ends in TimeoutExpired."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2']
    process = subprocess.run(
        [*command, '--master-port', str(port), *map(str, arguments)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]


def last_metrics(work_dir: Path) -> dict[str, float]:
    """The COCO scores that the last run wrote into its log folder."""
    (path, *_) = sorted(work_dir.glob('*/[0-9]*.json'), reverse=True)
    scores = json.loads(path.read_text().splitlines()[-1])
    return {key: value for key, value in scores.items() if key.startswith('coco/')}


@pytest.mark.slow
def test_two_processes__equal_weights_and_the_metric_of_one(tmp_path: Path) -> None:
    # Two processes take every second image each: all images of the second one are without objects.
    make_tiny_coco(tmp_path, 8, empty=(1, 3, 5, 7))
    # An odd number: one image is drawn twice to fill the last batch and must not count twice.
    make_tiny_coco(tmp_path, 5, split='val', seed=1)
    cfg = tiny_config(tmp_path, tmp_path / 'work', max_epochs=6)
    cfg.train_dataloader.sampler.shuffle = False
    cfg.optim_wrapper.optimizer.lr = 5e-3
    cfg.custom_hooks = [
        dict(type='mmext.StepEMAHook', ema_type='ExpMomentumEMA', gamma=5, update_buffers=True)
    ]
    cfg.log_level = 'INFO'
    cfg.dump(tmp_path / 'tiny.py')
    torchrun([WORKER, tmp_path, tmp_path / 'tiny.py', '--launcher', 'pytorch', '--device', 'cpu'])
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
    in_training = last_metrics(tmp_path / 'work')
    assert in_training['coco/bbox_mAP_50'] > 0

    arguments = [tmp_path / 'tiny.py', tmp_path / 'work' / 'epoch_6.pth', '--device', 'cpu']
    one, two = tmp_path / 'one', tmp_path / 'two'
    assert test_tool.main([*map(str, arguments), '--work-dir', str(one)]) == 0
    torchrun(['-m', 'mmext.tools.test', *arguments, '--work-dir', two, '--launcher', 'pytorch'])
    assert last_metrics(one) == last_metrics(two) == in_training
