"""The training tool: what it writes into the config, and whole runs; mistakes are in `test_train_mistakes`."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from mmdet.models.backbones import CSPNeXt
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop

from mmext.engine.checkpoint import read_checkpoint
from mmext.tools import train
from tests.tiny import make_tiny_coco, tiny_config

HOOKS = [
    dict(type='mmext.YOLOWarmupHook', warmup_epochs=1, min_iters=6),
    dict(
        type='mmext.StepEMAHook',
        ema_type='ExpMomentumEMA',
        momentum=1e-4,
        gamma=20,
        update_buffers=True,
    ),
    dict(type='mmext.PreflightHook'),
]


def write_config(tmp_path: Path, **options: int) -> Path:
    """Draws the tiny data set and writes a config file that trains on it, with all of our hooks."""
    make_tiny_coco(tmp_path)
    make_tiny_coco(tmp_path, 4, split='val', seed=1)
    cfg = tiny_config(tmp_path, tmp_path / 'work', **options)
    cfg.custom_hooks = HOOKS
    cfg.optim_wrapper.constructor = 'mmext.YOLOOptimWrapperConstructor'
    cfg.log_level = 'INFO'
    # mmengine names a run by its config and the second: each test needs a name of its own.
    path = tmp_path / f'{tmp_path.name}.py'
    cfg.dump(path)
    return path


def start_training(arguments: Sequence[object]) -> subprocess.Popen:
    """Starts the tool as a user does, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, '-m', 'mmext.tools.train', *map(str, arguments)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_training(*arguments: object) -> None:
    """Runs the tool in this process, which saves the seconds of importing."""
    assert train.main([str(argument) for argument in arguments]) == 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The number of threads of `start_training`, and an end to `--deterministic`."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(False)


def edited(tmp_path: Path, *arguments: str) -> Config:
    """The config after the arguments of a command line, without running anything."""
    args = train.parse_args([str(write_config(tmp_path)), *arguments])
    cfg = train.load_config(args)
    train.edit_config(cfg, args)
    return cfg


def test_edit_config__amp_on_the_cpu_is_bfloat16(tmp_path: Path) -> None:
    cfg = edited(tmp_path, '--amp', '--device', 'cpu')
    assert cfg.optim_wrapper.type == 'mmext.CPUAmpOptimWrapper'


def test_edit_config__amp_of_the_config_runs_on_the_cpu(tmp_path: Path) -> None:
    options = 'optim_wrapper.type=AmpOptimWrapper optim_wrapper.loss_scale=dynamic'.split()
    cfg = edited(tmp_path, '--device', 'cpu', '--cfg-options', *options)
    assert cfg.optim_wrapper.type == 'mmext.CPUAmpOptimWrapper'
    assert 'loss_scale' not in cfg.optim_wrapper


@pytest.mark.parametrize(
    ('arguments', 'resume', 'load_from'),
    [
        ([], False, None),
        (['--resume'], True, None),
        (['--resume', 'a.pth'], True, 'a.pth'),
    ],
    ids=['no', 'last', 'file'],
)
def test_edit_config__resume(
    tmp_path: Path,
    arguments: list[str],
    resume: bool,
    load_from: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.pth').touch()
    cfg = edited(tmp_path, *arguments)
    assert (cfg.get('resume', False), cfg.get('load_from')) == (resume, load_from)


def test_edit_config__deterministic_without_a_seed_takes_seed_0(tmp_path: Path) -> None:
    cfg = edited(tmp_path, '--deterministic', '--cfg-options', 'randomness.seed=None')
    assert cfg.randomness == dict(seed=0, deterministic=True)
    assert cfg.custom_hooks[-2].type == 'mmext.ReproducibleHook'


def test_edit_config__seed(tmp_path: Path) -> None:
    assert edited(tmp_path, '--seed', '7').randomness.seed == 7


@pytest.mark.parametrize('spelling', ['--local-rank', '--local_rank'])
def test_local_rank__both_spellings(
    tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    edited(tmp_path, spelling, '3')
    assert os.environ.pop('LOCAL_RANK') == '3'


@pytest.mark.parametrize(
    ('constructor', 'num_groups'),
    [
        pytest.param('DefaultOptimWrapperConstructor', 1, marks=pytest.mark.slow),
        ('mmext.YOLOOptimWrapperConstructor', 3),
    ],
    ids=['default', 'yolo'],
)
def test_auto_scale_lr__batch_2_against_base_4_halves_the_rate(
    tmp_path: Path,
    constructor: str,
    num_groups: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From 2e-3, in every group."""
    rates: list[float] = []

    def read_rates(loop: EpochBasedTrainLoop) -> None:
        """Stands for the training: everything is set up, nothing is run."""
        rates.extend(group['lr'] for group in loop.runner.optim_wrapper.optimizer.param_groups)

    monkeypatch.setattr(EpochBasedTrainLoop, 'run', read_rates)
    options = ['auto_scale_lr.base_batch_size=4', f'optim_wrapper.constructor={constructor}']
    run_training(write_config(tmp_path), '--auto-scale-lr', '--cfg-options', *options)
    assert rates == [1e-3] * num_groups


def weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint that training carries on: weights, averaged weights, optimizer."""
    checkpoint = read_checkpoint(path)
    found = {f'model.{name}': value for name, value in checkpoint['state_dict'].items()}
    found |= {f'ema.{name}': value for name, value in checkpoint['ema_state_dict'].items()}
    for index, state in checkpoint['optimizer']['state'].items():
        found |= {f'optimizer.{index}.{name}': value for name, value in state.items()}
    return found


def assert_same_bits(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f'{len(different)} of {len(one)} differ: {different[:3]}'


@pytest.mark.slow
@pytest.mark.parametrize('num_workers', [0, 2])
def test_train__resumed_run_ends_with_the_same_bits(
    tmp_path: Path, num_workers: int, one_thread: None
) -> None:
    config = write_config(tmp_path, max_epochs=4, num_workers=num_workers)
    persistent = f'train_dataloader.persistent_workers={num_workers > 0}'
    options = ['--deterministic', '--cfg-options', persistent]
    run_training(config, '--work-dir', tmp_path / 'whole', *options)
    checkpoint = tmp_path / 'whole' / 'epoch_2.pth'
    # In a fresh process: nothing can be left over from the whole run.
    process = start_training(
        [config, '--work-dir', tmp_path / 'resumed', '--resume', checkpoint, *options]
    )
    output, _ = process.communicate(timeout=300)
    assert 'resumed epoch: 2, iter: 8' in output
    assert process.returncode == 0, output[-3000:]
    assert_same_bits(tmp_path / 'whole' / 'epoch_4.pth', tmp_path / 'resumed' / 'epoch_4.pth')


@pytest.mark.slow
def test_train__another_seed_ends_with_other_bits(tmp_path: Path, one_thread: None) -> None:
    config = write_config(tmp_path, max_epochs=1)
    for seed in (1, 2):
        run_training(config, '--work-dir', tmp_path / str(seed), '--deterministic', '--seed', seed)
    with pytest.raises(AssertionError, match='differ'):
        assert_same_bits(tmp_path / '1' / 'epoch_1.pth', tmp_path / '2' / 'epoch_1.pth')


@pytest.mark.slow
def test_train__killed_in_mid_epoch_resumes_from_the_last_checkpoint(
    tmp_path: Path, one_thread: None, capfd: pytest.CaptureFixture
) -> None:
    config = write_config(tmp_path, max_epochs=3)
    options = ['--deterministic', '--cfg-options', 'default_hooks.logger.interval=1']
    process = start_training([config, *options])
    assert process.stdout is not None
    for line in process.stdout:
        # Epochs have four iterations: this is the middle of the second.
        if 'Epoch(train) [2][2/4]' in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL
    work = tmp_path / 'work'
    assert (work / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    run_training(config, '--resume', *options)
    assert 'resumed epoch: 1, iter: 4' in capfd.readouterr().out
    run_training(config, '--work-dir', tmp_path / 'whole', *options)
    assert_same_bits(work / 'epoch_3.pth', tmp_path / 'whole' / 'epoch_3.pth')


@pytest.mark.slow
def test_train__amp_on_the_cpu_runs_the_backbone_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: set[torch.dtype] = set()
    original = CSPNeXt.forward

    def forward(self: CSPNeXt, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = original(self, images)
        if self.training:
            dtypes.update(feature.dtype for feature in features)
        return features

    monkeypatch.setattr(CSPNeXt, 'forward', forward)
    run_training(write_config(tmp_path), '--amp', '--device', 'cpu')
    assert dtypes == {torch.bfloat16}
    assert all(
        value.isfinite().all() for value in weights(tmp_path / 'work' / 'epoch_2.pth').values()
    )
