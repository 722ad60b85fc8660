"""Runs of DEIM with all parts of its recipe: resumed in both stages, and in two processes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmext.models.deim.groups import default_groups
from tests.tiny import make_tiny_coco, tiny_deim_config
from tests.tools.test_train import assert_same_bits, run_training, start_training
from tests.tools.test_train_distributed import WORKER, torchrun

# Two steps in each epoch.
NUM_EPOCHS, STOP, NUM_STEPS, SIZE = 4, 2, 2, 128


def deim_recipe(folder: Path, *, num_workers: int = 0) -> Config:
    """A tiny training with every part of the recipe that holds a state, changes with the epoch or draws numbers."""
    make_tiny_coco(folder, 2 * NUM_STEPS, empty=(3,))
    make_tiny_coco(folder, 2, split='val', seed=1)
    cfg = tiny_deim_config(folder, folder / 'work', max_epochs=NUM_EPOCHS, num_workers=num_workers)
    strong = [
        dict(type='mmext.PhotometricDistortion'),
        dict(type='mmext.ZoomOut'),
        dict(type='mmext.IoUCrop'),
    ]
    cfg.train_dataloader.persistent_workers = num_workers > 0
    cfg.train_dataloader.dataset.pipeline[2:4] = [
        dict(type='mmext.InEpochs', transforms=strong, epochs=(0, STOP)),
        dict(type='mmext.DropSmallObjects'),
        dict(type='mmdet.RandomFlip', prob=0.5),
    ]
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        (resize,) = (step for step in loader.dataset.pipeline if step['type'] == 'Resize')
        resize['scale'] = (SIZE, SIZE)
    cfg.model.data_preprocessor.batch_augments = [
        dict(type='mmext.BatchMixUp', epochs=(0, STOP)),
        dict(type='mmext.BatchRandomSize', base_size=SIZE, repeat=2, epochs=(0, STOP)),
    ]
    # As in the shipped configs; on the CPU it becomes plain batch norm.
    cfg.sync_bn = 'torch'
    # The matcher changes its cost in the second stage.
    cfg.model.criterion.matcher.change_epoch = STOP + 1
    cfg.train_cfg.val_interval = 1
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4),
        clip_grad=dict(max_norm=0.1),
        constructor='mmext.PatternOptimWrapperConstructor',
        paramwise_cfg=dict(patterns=default_groups('atto', 5e-4)),
    )
    rate = dict(flat=STOP, no_aug=1, warmup=3, convert_to_iter_based=True)
    cfg.param_scheduler = [dict(type='mmext.FlatCosineLR', **rate)]
    cfg.default_hooks.checkpoint.update(save_best='coco/bbox_mAP', rule='greater')
    average = dict(momentum=1e-2, gamma=10, update_buffers=True, priority=49)
    cfg.custom_hooks = [
        dict(type='mmdet.SetEpochInfoHook'),
        dict(type='mmext.EpochWindowsHook'),
        dict(type='mmext.StepEMAHook', ema_type='ExpMomentumEMA', **average),
        dict(type='mmext.FiniteLossHook'),
        dict(type='mmext.StageTwoHook', stop_epoch=STOP),
    ]
    cfg.log_level = 'INFO'
    return cfg


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The config; beside it `whole`, the uninterrupted run, with a checkpoint of every epoch."""
    folder = tmp_path_factory.mktemp('deim_run')
    config = folder / 'deim_run.py'
    deim_recipe(folder, num_workers=1).dump(config)
    num_threads = torch.get_num_threads()
    # As many as `start_training` uses: the order of sums depends on it.
    torch.set_num_threads(1)
    run_training(config, '--work-dir', folder / 'whole', '--deterministic')
    yield config
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize('epoch', [1, 3], ids=['first stage', 'second stage'])
def test_train__resumed_deim_ends_with_the_same_bits(whole_run: Path, epoch: int) -> None:
    whole, resumed = whole_run.parent / 'whole', whole_run.parent / f'resumed_{epoch}'
    resumed.mkdir()
    shutil.copy(whole / 'best_stg1.pth', resumed)
    options = ['--resume', whole / f'epoch_{epoch}.pth', '--deterministic']
    # In a fresh process: nothing can be left over from the whole run.
    process = start_training([whole_run, '--work-dir', resumed, *options])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    assert f'resumed epoch: {epoch}, iter: {epoch * NUM_STEPS}' in output
    last = f'epoch_{NUM_EPOCHS}.pth'
    assert_same_bits(whole / last, resumed / last)


@pytest.mark.slow
def test_two_processes__second_stage_starts_alike_in_both(tmp_path: Path) -> None:
    config = tmp_path / 'deim_run.py'
    cfg = deim_recipe(tmp_path)
    cfg.train_cfg.max_epochs = STOP + 1
    cfg.dump(config)
    torchrun([WORKER, tmp_path, config, '--launcher', 'pytorch', '--device', 'cpu'])
    one, other = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert f'StageTwoHook: epoch {STOP + 1} starts from' in log.read_text()
