"""Split a CSV of single objects into training and validation with equal shares of the classes: `split_csv.py ALL.csv OUT`.

Writes OUT/train.csv and OUT/val.csv (and OUT/test.csv with a third share); the images stay where they are.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmext.datasets.converters.records import ImageRecord
from mmext.datasets.converters.splits import SPLITS, assign_splits
from mmext.datasets.localization_csv import read_rows, write_rows
from mmext.datasets.report import Report
from mmext.tools.command import add_traceback_argument, run_command
from mmext.tools.single_objects import accept_rows, add_skip_bad_argument


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog='split_csv', description=__doc__.splitlines()[0])
    parser.add_argument('csv', type=Path, help='filename,xmin,ymin,xmax,ymax,class of all images')
    parser.add_argument('out', type=Path, help='folder to write {train,val,test}.csv to')
    parser.add_argument(
        '--fractions',
        type=float,
        nargs='+',
        default=[0.75, 0.25],
        metavar='SHARE',
        help='of train, val and maybe test (default: 0.75 0.25)',
    )
    parser.add_argument('--seed', type=int, default=42, help='of the split (default: 42)')
    add_skip_bad_argument(parser)
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def split(args: argparse.Namespace) -> None:
    """Splits as the command line says.

    Raises:
        ValueError: the file cannot be used, has bad rows or no labels, the shares do not sum to 1, or a split would be
            written over the file.
    """
    if len(args.fractions) not in (2, 3):
        raise ValueError(f'got --fractions {args.fractions}, expected two or three shares')
    targets = {name: args.out / f'{name}.csv' for name in SPLITS}
    if args.csv.resolve() in [path.resolve() for path in targets.values()]:
        raise ValueError(
            f'{args.csv} would be written over by its own part. Give another folder than {args.out}.'
        )
    report = Report()
    rows, num_rows = read_rows(args.csv, report)
    accept_rows(args.csv, report, num_rows, skip_bad=args.skip_bad)
    labelled = [(row.filename, row.box, row.category) for row in rows if row.box is not None]
    if not labelled:
        raise ValueError(f'{args.csv} has no rows with boxes and classes to split.')
    # The images are not read: their sizes are of no use here.
    records = [ImageRecord(Path(name), name, 0, 0, stratum=kind) for name, _, kind in labelled]
    fractions = (*args.fractions, 0.0)[: len(SPLITS)]
    assign_splits(records, fractions, args.seed)
    for name, path in targets.items():
        own = [row for row, record in zip(labelled, records, strict=True) if record.split == name]
        if own:
            write_rows(path, own)
            counts = Counter(kind for *_, kind in own)
            classes = ', '.join(f'{kind} {number}' for kind, number in sorted(counts.items()))
            print(f'{path}: {len(own)} images, {classes}')


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(split, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
