"""Two processes on the CPU: the same weights in both, the metric of one process, and no waiting for ever."""

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmext.engine.checkpoint import read_checkpoint
from mmext.tools import test as test_tool
from tests.tiny import make_tiny_coco, tiny_config, tiny_deim_config, tiny_segment_config

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


def coco_scores(path: Path) -> dict[str, float]:
    """The COCO scores in the last line of a log file."""
    scores = json.loads(path.read_text().splitlines()[-1])
    return {key: value for key, value in scores.items() if key.startswith('coco/')}


def make_config(
    root: Path, max_epochs: int, lr: float, base: Callable[..., Config] = tiny_config
) -> Config:
    """The tiny training with averaged weights, validated on five images.

    Five is odd: with two processes one image is drawn twice to fill the last batch and must not count twice.
    """
    make_tiny_coco(root, 5, split='val', seed=1)
    cfg = base(root, root / 'work', max_epochs=max_epochs)
    cfg.train_dataloader.sampler.shuffle = False
    cfg.optim_wrapper.optimizer.lr = lr
    cfg.default_hooks.checkpoint.interval = max_epochs
    cfg.custom_hooks = [
        dict(type='mmext.StepEMAHook', ema_type='ExpMomentumEMA', momentum=0.2, update_buffers=True)
    ]
    cfg.log_level = 'INFO'
    return cfg


@pytest.mark.slow
def test_two_processes__equal_weights_and_the_metric_of_one(tmp_path: Path) -> None:
    # A few seconds in one process, so that there is a score to compare.
    first_run, second_run = tmp_path / 'first', tmp_path / 'second'
    make_tiny_coco(first_run, 8)
    Runner.from_cfg(make_config(first_run, max_epochs=25, lr=5e-3)).train()
    # Two processes take every second image each: all images of the second one are without objects.
    make_tiny_coco(second_run, 8, empty=(1, 3, 5, 7))
    cfg = make_config(second_run, max_epochs=2, lr=1e-4)
    cfg.load_from = str(first_run / 'work' / 'epoch_25.pth')
    config = tmp_path / 'tiny.py'
    cfg.dump(config)
    torchrun([WORKER, tmp_path, config, '--launcher', 'pytorch', '--device', 'cpu'])

    one, other = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    (log,) = (second_run / 'work').glob('*/vis_data/scalars.json')
    in_training = coco_scores(log)
    assert in_training['coco/bbox_mAP_50'] > 0

    arguments = [config, second_run / 'work' / 'epoch_2.pth', '--device', 'cpu', '--work-dir']
    alone, together = tmp_path / 'alone', tmp_path / 'together'
    assert test_tool.main([*map(str, arguments), str(alone)]) == 0
    torchrun(['-m', 'mmext.tools.test', *arguments, together, '--launcher', 'pytorch'])
    tested = [coco_scores(path) for folder in (alone, together) for path in folder.glob('*/*.json')]
    assert tested == [in_training, in_training]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('base', 'term'),
    [(tiny_segment_config, 'loss_mask'), (tiny_deim_config, 'loss_bbox_dn_0')],
    ids=['segment', 'deim'],
)
def test_two_processes__where_one_sees_empty_images_only(
    tmp_path: Path, base: Callable[..., Config], term: str
) -> None:
    # Every second image, so all of the second process, is without objects, masks and positives.
    make_tiny_coco(tmp_path, 8, empty=(1, 3, 5, 7))
    config = tmp_path / 'tiny.py'
    make_config(tmp_path, max_epochs=2, lr=1e-3, base=base).dump(config)
    torchrun([WORKER, tmp_path, config, '--launcher', 'pytorch', '--device', 'cpu'])

    one, other = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    assert all(value.isfinite().all() for value in one.values())
    # The average lags behind: equal weights are no untouched weights.
    averaged = read_checkpoint(tmp_path / 'work' / 'epoch_2.pth')['state_dict']
    kernels = [name for name, value in one.items() if value.ndim == 4]
    assert not [name for name in kernels if torch.equal(one[name], averaged[name])]
    (log,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [line[term] for line in logged if term in line]
    assert losses and all(math.isfinite(loss) and loss > 0 for loss in losses)
