"""From nothing to detections in minutes: synthetic defects, a short training, COCO scores, pictures, curves.

Everything lands in one folder, with the config that was used: the start of a project of one's own.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from mmengine.runner import find_latest_checkpoint

import mmext
from mmext.tools import make_synthetic, test, train
from mmext.tools.command import add_traceback_argument, run_command
from mmext.visualization import plot_curves

CONFIG = Path(mmext.__file__).parent / '.mim/configs/yolo/segment_v8n_1xb8-12e_synthetic.py'
PROJECT = """_base_ = {base!r}

data_root = {root!r}
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog='demo', description=__doc__)
    parser.add_argument('out', type=Path, help='folder to write to')
    parser.add_argument('--config', type=Path, default=CONFIG, help='config to train')
    parser.add_argument('--num-train', type=int, default=400, help='training images')
    parser.add_argument('--num-val', type=int, default=80, help='validation images')
    parser.add_argument('--seed', type=int, default=0, help='of the images and of the training')
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def demo(args: argparse.Namespace) -> None:
    """Makes data, trains, scores and draws."""
    start = time.perf_counter()
    config = make_project(args)
    run, seed = args.out / 'run', str(args.seed)
    _step(train, [str(config), '--work-dir', str(run), '--seed', seed], args)
    checkpoint = last_checkpoint(run)
    pictures = (args.out / 'pictures').resolve()
    places = ['--work-dir', str(args.out / 'scores'), '--show-dir', str(pictures)]
    _step(test, [str(config), str(checkpoint), *places], args)
    curves = args.out / 'curves.png'
    plot_curves(newest(run, '*/vis_data/scalars.json'), curves)
    print(f'\nDone in {(time.perf_counter() - start) / 60:.1f} minutes.')
    print(f'  truth (left) and predictions (right): {pictures}')
    print(f'  loss and AP curves:                   {curves.resolve()}')
    print(f'  config, to start your own from:       {config.resolve()}')
    print(f'  checkpoint:                           {checkpoint.resolve()}')


def make_project(args: argparse.Namespace) -> Path:
    """Writes the data set, unless it is there already, and a config that reads it."""
    # The numbers are part of the name: another size or seed must not meet older images.
    name = f'data-{args.num_train}-{args.num_val}-seed{args.seed}'
    data = (args.out / name).resolve()
    # The annotations are written last: without them an earlier demo was stopped while it drew.
    if not (data / 'val.json').is_file():
        counts = ['--num-train', str(args.num_train), '--num-val', str(args.num_val)]
        options = [*counts, '--seed', str(args.seed), '--overwrite']
        _step(make_synthetic, [str(data), *options], args)
    config = args.out / 'config.py'
    base = str(args.config.resolve())
    config.write_text(PROJECT.format(base=base, root=f'{data}/'), encoding='utf-8')
    return config


def last_checkpoint(run: Path) -> Path:
    """The last checkpoint of a run, with the averaged weights.

    Raises:
        ValueError: there is none.
    """
    path = find_latest_checkpoint(str(run))
    if path is None:
        raise ValueError(
            f'no last_checkpoint in {run}: the training wrote no checkpoint; give a --config that has '
            "default_hooks.checkpoint=dict(type='CheckpointHook')"
        )
    return Path(path)


def newest(folder: Path, pattern: str) -> Path:
    """The file of a pattern that was written last.

    Raises:
        ValueError: there is none.
    """
    files = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not files:
        raise ValueError(f'no {pattern} in {folder}: the training wrote no log')
    return files[-1]


def _step(tool: ModuleType, arguments: list[str], args: argparse.Namespace) -> None:
    """Runs another tool with a command line."""
    code = tool.main([*arguments, *(['--traceback'] if args.traceback else [])])
    if code:
        name = tool.__name__.rpartition('.')[2]
        raise ValueError(f'the step {name} failed with exit code {code}; its message is above')


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(demo, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
