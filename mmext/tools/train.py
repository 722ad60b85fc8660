"""Trains a model from a config: `python -m mmext.tools.train CONFIG [options]`."""

import argparse
import sys
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.device import get_device

from mmext.tools.command import (
    add_hook,
    add_runtime_arguments,
    build_runner,
    check_checkpoint,
    check_parts,
    explained_datasets,
    load_config,
    run_command,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog='train', description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='continue from a checkpoint; without a path: from the last one in the work folder',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision (bfloat16 on the CPU)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument('--seed', type=int, help='seed of all random numbers')
    parser.add_argument(
        '--deterministic', action='store_true', help='same seed, same weights, bit by bit'
    )
    add_runtime_arguments(parser)
    return parser.parse_args(argv)


def enable_amp(cfg: Config) -> None:
    """Switches the optimizer wrapper to mixed precision: float16 on a GPU, bfloat16 on the CPU.

    Raises:
        ValueError: if the config has an optimizer wrapper of another kind.
    """
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'mmext.CPUAmpOptimWrapper'):
        raise ValueError(
            f"--amp: optim_wrapper.type is {kind!r}; mixed precision needs 'OptimWrapper'"
        )
    if get_device() == 'cpu':
        cfg.optim_wrapper.type = 'mmext.CPUAmpOptimWrapper'
        # bfloat16 needs no scaling of the loss, and a float16 dtype would be wrong here.
        cfg.optim_wrapper.pop('loss_scale', None)
        cfg.optim_wrapper.pop('dtype', None)
    else:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def enable_lr_scaling(cfg: Config) -> None:
    """Switches on the scaling of the learning rate with the batch size.

    Raises:
        ValueError: if the config does not say for which batch size its learning rate is meant.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ValueError(
            '--auto-scale-lr: the config does not say for which batch size its learning rate is '
            'meant; add auto_scale_lr = dict(base_batch_size=16, enable=False)'
        )
    cfg.auto_scale_lr.enable = True


def set_randomness(cfg: Config, seed: int | None, deterministic: bool) -> None:
    """Writes seed and determinism into the config; determinism without any seed takes seed 0."""
    # Config.setdefault would hand out a copy, and an empty dict is no `randomness` for the Runner.
    randomness = dict(cfg.get('randomness') or {})
    if seed is not None:
        randomness['seed'] = seed
    if deterministic:
        randomness['deterministic'] = True
        if randomness.get('seed') is None:
            randomness['seed'] = 0
        add_hook(cfg, dict(type='mmext.ReproducibleHook'))
    if randomness:
        cfg.randomness = randomness


def set_resume(cfg: Config, resume: str | None) -> None:
    """Writes into the config from which checkpoint to continue ('auto': the last of the work folder)."""
    if resume is None:
        return
    cfg.resume = True
    cfg.load_from = None if resume == 'auto' else resume


def edit_config(cfg: Config, args: argparse.Namespace) -> None:
    """Applies the arguments of the command line to the config.

    Raises:
        ValueError: if an argument does not suit the config.
        FileNotFoundError: if there is no checkpoint to start from.
    """
    check_parts(cfg, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'), 'train on')
    if args.amp or (get_device() == 'cpu' and cfg.optim_wrapper.get('type') == 'AmpOptimWrapper'):
        enable_amp(cfg)
    if args.auto_scale_lr:
        enable_lr_scaling(cfg)
    set_randomness(cfg, args.seed, args.deterministic)
    set_resume(cfg, args.resume)
    if cfg.get('load_from'):
        check_checkpoint(cfg.load_from)
    add_hook(cfg, dict(type='mmext.CheckpointReportHook'))
    if args.launcher != 'none':
        add_hook(cfg, dict(type='mmext.AverageBuffersHook'))


def train(args: argparse.Namespace) -> None:
    """Trains as the command line says."""
    cfg = load_config(args)
    edit_config(cfg, args)
    runner = build_runner(cfg)
    with explained_datasets(cfg, 'train_dataloader', 'val_dataloader'):
        runner.train()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(train, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
