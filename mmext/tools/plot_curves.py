"""Draw losses, learning rate and validation scores of a run: `plot_curves.py WORK_DIR [--out curves.png]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmext.tools.command import add_traceback_argument, run_command
from mmext.tools.demo import newest
from mmext.visualization import plot_curves


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog='plot_curves', description=__doc__)
    parser.add_argument('run', type=Path, help='work folder of the training; its latest run counts')
    parser.add_argument('--out', type=Path, help='default: curves.png in that folder')
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def draw(args: argparse.Namespace) -> None:
    """Draws the curves.

    Raises:
        ValueError: the folder has no log of a run.
    """
    out = args.out or args.run / 'curves.png'
    plot_curves(newest(args.run, '*/vis_data/scalars.json'), out)
    print(f'written: {out}')


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(draw, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
