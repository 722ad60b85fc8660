"""Writes the mattes of GrabCut or of the watershed, for `eval_mattes` to score.

    python tools/baseline_mattes.py grabcut data/person_parsing/images OUT --list data/person_parsing/val.txt
    python tools/eval_mattes.py OUT data/person_parsing/alpha --list data/person_parsing/val.txt

OUT gets a PNG for each photo, of its path below PHOTOS. Photos that cannot be cut are listed, and the exit code is 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mmext.apis.classical_mattes import grabcut_matte, watershed_matte
from mmext.apis.image_inputs import find_images
from mmext.datasets.transforms.alpha_files import read_bytes
from mmext.tools.command import add_traceback_argument, run_command
from mmext.tools.eval_mattes import add_list_argument, listed_names

METHODS = {'grabcut': grabcut_matte, 'watershed': watershed_matte}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='baseline_mattes',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('method', choices=list(METHODS))
    parser.add_argument('photos', type=Path, metavar='PHOTOS', help='folder of photos, any depth')
    parser.add_argument('out', type=Path, metavar='OUT', help='folder to write to; new or empty')
    add_list_argument(parser)
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def write_matte(method: str, photo: Path, target: Path) -> None:
    """Cuts one photo.

    Raises:
        ValueError: it is no image, or cannot be cut.
        OSError: the file cannot be written.
    """
    # EXIF stays unread: the truth belongs to the pixels as stored.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(read_bytes(str(photo)), np.uint8), flags)
    if image is None:
        raise ValueError('it cannot be decoded as an image')
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(
        cv2.imencode('.png', METHODS[method](np.asarray(image, np.uint8)))[1].tobytes()
    )


def cut_all(args: argparse.Namespace) -> int:
    """Cuts every photo; returns the exit code."""
    if not args.photos.is_dir():
        raise ValueError(f'{args.photos} is no folder; expected one of photos')
    photos = find_images(args.photos)
    listed = listed_names(args.list)
    if listed is not None:
        names = {path.relative_to(args.photos).with_suffix('').as_posix(): path for path in photos}
        missing = sorted(listed - names.keys())
        if missing:
            raise ValueError(
                f'{args.list} names {missing[0]} and {len(missing) - 1} more that {args.photos} has not'
            )
        photos = [names[name] for name in sorted(listed)]
    args.out.mkdir(parents=True, exist_ok=True)
    if any(args.out.iterdir()):
        raise ValueError(f'{args.out} is not empty; give a new folder')
    faults = []
    for photo in tqdm(photos, unit='image', disable=None):
        target = args.out / photo.relative_to(args.photos).with_suffix('.png')
        try:
            if target.exists():
                raise ValueError('another photo has its name, but for the suffix')
            write_matte(args.method, photo, target)
        except ValueError as error:
            faults.append(f'  {photo}: {error}')
    print(f'{len(photos) - len(faults)} of {len(photos)} mattes written to {args.out}')
    if faults:
        print('\n'.join(['not cut:', *faults]), file=sys.stderr)
    return 1 if faults else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(cut_all, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
