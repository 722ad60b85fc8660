"""Generate synthetic surface defects with exact masks in COCO format, or portraits with exact soft mattes.

Writes OUT/train.json, OUT/val.json and OUT/images/, with --semantic also maps of classes in OUT/labels/ and the lists
OUT/train.txt and OUT/val.txt; for portraits OUT/images/, OUT/alpha/, OUT/foreground/, OUT/train.txt and OUT/val.txt. The
same arguments give the same files. Exit code 2 if the arguments are wrong or OUT may not be written to.

    make_synthetic OUT --objects 20-40 --object-scale 0.4 --size 512    # crowded images
    make_synthetic OUT --preset look-alike --num-train 100 --num-val 200
    make_synthetic OUT --preset portraits
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmext.datasets.converters.writer import summary
from mmext.datasets.synthetic import (
    PRESETS,
    Preset,
    crowded,
    write_dataset,
    write_portraits,
    write_semantic,
)
from mmext.tools.command import add_traceback_argument, run_command

PORTRAITS = 'portraits'


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write to; new or empty')
    parser.add_argument(
        '--preset',
        choices=(*PRESETS, PORTRAITS),
        default='metal',
        help='metal: brushed metal (default); tile: grey magnetic tiles; 5 defect classes each. '
        'look-alike: brushed metal with 6 classes in pairs of the same outline. '
        'portraits: people with hair, mattes and foreground colours',
    )
    parser.add_argument('--num-train', type=int, default=400, metavar='N', help='default: 400')
    parser.add_argument('--num-val', type=int, default=100, metavar='N', help='default: 100')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='default: 0')
    parser.add_argument(
        '--size', type=int, default=256, metavar='PX', help='long side of the images (default: 256)'
    )
    parser.add_argument(
        '--objects',
        metavar='N[-M]',
        help='defects in an image that has any; default: few, by the preset. One that finds no place is left out',
    )
    parser.add_argument(
        '--object-scale',
        type=float,
        default=1.0,
        metavar='X',
        help='length of defects (default: 1)',
    )
    parser.add_argument(
        '--semantic',
        action='store_true',
        help="also write maps of classes for mmseg's BaseSegDataset: labels/, train.txt, val.txt",
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace an earlier synthetic data set in OUT'
    )
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def choose_preset(args: argparse.Namespace) -> Preset:
    """The preset of the command line, with the number and the size of objects that it asks for.

    Raises:
        ValueError: numbers that cannot be.
    """
    if not 0 < args.object_scale <= 4:
        raise ValueError(f'--object-scale: got {args.object_scale}; expected a number in (0, 4]')
    preset = replace(PRESETS[args.preset], defect_scale=args.object_scale)
    if args.objects is None:
        return preset
    fewest, _, most = args.objects.partition('-')
    if not (fewest.isdecimal() and (most or fewest).isdecimal()):
        raise ValueError(f'--objects: got {args.objects!r}; expected N or N-M, such as 20-40')
    return crowded(preset, int(fewest), int(most or fewest))


def generate(args: argparse.Namespace) -> None:
    """Write the data set and say what is in it."""
    num_images = {'train': args.num_train, 'val': args.num_val}
    settings = dict(size=args.size, seed=args.seed, overwrite=args.overwrite)
    if args.preset == PORTRAITS:
        if args.objects is not None or args.object_scale != 1 or args.semantic:
            raise ValueError(
                '--objects, --object-scale and --semantic are for defects; a portrait has one person and a matte'
            )
        lines = write_portraits(args.out, num_images=num_images, **settings)
    else:
        splits = write_dataset(args.out, choose_preset(args), num_images=num_images, **settings)
        lines = [summary(split, coco) for split, coco in splits.items()]
        if args.semantic:
            lines += write_semantic(args.out, splits)
    print()  # ends the progress bar's line
    print('\n'.join(lines))
    print(f'written to {args.out}')


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(generate, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
