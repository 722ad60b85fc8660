"""Generate a data set of synthetic surface defects with exact masks, in COCO format.

Writes OUT/train.json, OUT/val.json and OUT/images/. The same arguments give the same files. Exit
code 2 if the arguments are wrong or OUT may not be written to.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmext.datasets.synthetic import PRESETS, write_dataset


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write to; new or empty')
    parser.add_argument(
        '--preset',
        choices=tuple(PRESETS),
        default='metal',
        help='metal: brushed metal (default); tile: grey magnetic tiles; 5 defect classes each',
    )
    parser.add_argument('--num-train', type=int, default=400, metavar='N', help='default: 400')
    parser.add_argument('--num-val', type=int, default=100, metavar='N', help='default: 100')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='default: 0')
    parser.add_argument(
        '--size', type=int, default=256, metavar='PX', help='long side of the images (default: 256)'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace an earlier synthetic data set in OUT'
    )
    return parser.parse_args(argv)


def summary(split: str, coco: dict) -> str:
    """Say in one line how many images and objects of each class a split has."""
    names = {category['id']: category['name'] for category in coco['categories']}
    counts = Counter(names[annotation['category_id']] for annotation in coco['annotations'])
    num_normal = sum(image['image_labels'] == ['NORMAL'] for image in coco['images'])
    objects = ', '.join(f'{name} {counts[name]}' for name in names.values())
    return f'{split:5s} {len(coco["images"])} images ({num_normal} NORMAL), objects: {objects}'


def main(argv: Sequence[str] | None = None) -> int:
    """Generate; returns the exit code."""
    args = parse_args(argv)
    try:
        splits = write_dataset(
            args.out,
            PRESETS[args.preset],
            num_images={'train': args.num_train, 'val': args.num_val},
            size=args.size,
            seed=args.seed,
            overwrite=args.overwrite,
        )
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print()  # ends the progress bar's line
    for split, coco in splits.items():
        print(summary(split, coco))
    print(f'written to {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
