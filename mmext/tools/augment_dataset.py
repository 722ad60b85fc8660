"""Enlarge a data set of single objects on disk: `augment_dataset.py TRAIN.csv OUT --images DIR --copies 3`.

Writes the originals and so many augmented copies of each to OUT/images, under names that nothing else has, and
OUT/<name of the CSV> with a row for each. Training with transforms draws new copies in every epoch and needs none of this.
"""

# The transforms draw from numpy's global generator, which is seeded here.
# ruff: noqa: NPY002

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tqdm import tqdm

from mmext.datasets.localization_csv import Box, LabelledImage, find_image, read_rows, write_rows
from mmext.datasets.report import Report
from mmext.registry import TRANSFORMS
from mmext.tools.command import add_traceback_argument, run_command
from mmext.tools.single_objects import accept_rows, add_skip_bad_argument

# The mission's.
DEFAULT_PIPELINE = [
    dict(
        type='mmext.Albumentations',
        transforms=[
            dict(type='HorizontalFlip', p=0.5),
            dict(type='RandomBrightnessContrast', p=0.3),
            dict(type='MotionBlur', p=0.4),
            dict(type='HueSaturationValue', p=0.3),
            dict(type='Affine', scale=(0.9, 1.1), translate_percent=(-0.0625, 0.0625), p=0.2),
        ],
        keep_objects=True,
    )
]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog='augment_dataset', description=__doc__.splitlines()[0])
    parser.add_argument('csv', type=Path, help='filename,xmin,ymin,xmax,ymax,class')
    parser.add_argument('out', type=Path, help='folder to write images/ and the CSV to')
    parser.add_argument('--images', type=Path, required=True, help='folder of the images')
    parser.add_argument('--copies', type=int, default=3, help='of each image (default: 3)')
    parser.add_argument('--seed', type=int, default=42, help='default: 42')
    parser.add_argument(
        '--pipeline',
        type=Path,
        metavar='FILE',
        help='config with `pipeline`, a list of transforms (default: flip, brightness, blur, colour, affine)',
    )
    add_skip_bad_argument(parser)
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def augment(args: argparse.Namespace) -> None:
    """Augments as the command line says.

    Raises:
        ValueError: a wrong number, a bad row, a file without labels, or OUT lies where the images are.
    """
    if args.copies < 1:
        raise ValueError(f'got --copies {args.copies}, expected at least 1')
    target = args.out / 'images'
    if target.resolve() == args.images.resolve() or args.csv.resolve().parent == args.out.resolve():
        raise ValueError(f'{args.out} holds the originals; give another folder to write to')
    images = _read(args.csv, args.images, skip_bad=args.skip_bad)
    steps = _build(args.pipeline)
    taken = {image.row.filename for image in images}
    np.random.seed(args.seed)
    rows: list[tuple[str, Box, str]] = []
    for image in tqdm(images, unit='photo', disable=not sys.stderr.isatty()):
        name, category = image.row.filename, image.row.category
        _copy(image.path, target / name)
        assert image.box is not None
        rows.append((name, image.box, category))
        for _ in range(args.copies):
            pixels, box = _augmented(image, steps)
            unique = _free_name(Path(name), taken)
            _write(target / unique, pixels)
            rows.append((unique, box, category))
    write_rows(args.out / args.csv.name, rows)
    print(
        f'{args.out / args.csv.name}: {len(images)} originals and {len(rows) - len(images)} copies'
    )


def _read(path: Path, folder: Path, *, skip_bad: bool) -> list[LabelledImage]:
    report = Report()
    rows, num_rows = read_rows(path, report)
    for row in rows:
        # Copies would be written beside the originals, or over them.
        if Path(row.filename).is_absolute() or '..' in Path(row.filename).parts:
            raise ValueError(
                f'{row.where}: got the filename {row.filename}, expected a path below --images. Name another folder as '
                '--images, and the files from there.'
            )
    images = [find_image(row, folder, report) for row in rows]
    accept_rows(path, report, num_rows, skip_bad=skip_bad)
    labelled = [image for image in images if image is not None and image.box is not None]
    if not labelled:
        raise ValueError(f'{path} has no boxes. Expected a CSV with labels.')
    return labelled


def _build(path: Path | None) -> list[Callable[[dict], dict | None]]:
    """The transforms: loading first, then the pipeline."""
    settings: list = DEFAULT_PIPELINE
    if path is not None:
        settings = Config.fromfile(path).get('pipeline') or []
        if not settings:
            raise ValueError(f'{path} has no `pipeline`; expected pipeline = [dict(type=...), ...]')
    loading = [
        dict(type='mmext.LoadImage'),
        dict(type='mmdet.LoadAnnotations', with_bbox=True),
    ]
    with DefaultScope.overwrite_default_scope('mmdet'):
        return [TRANSFORMS.build(step) for step in [*loading, *settings]]


def _augmented(
    image: LabelledImage, steps: Sequence[Callable[[dict], dict | None]]
) -> tuple[np.ndarray, Box]:
    """Pixels (H, W, 3) BGR and box of one copy."""
    instance = dict(bbox=list(image.box or ()), bbox_label=0, ignore_flag=0)
    results: dict | None = dict(
        img_path=str(image.path), height=image.height, width=image.width, instances=[instance]
    )
    for step in steps:
        results = step(results) if results is not None else None
    boxes = [] if results is None else results['gt_bboxes'].numpy()
    if results is None or len(boxes) != 1:
        raise ValueError(
            f'{image.path}: the pipeline has left {len(boxes)} objects, expected one. Set keep_objects=True in '
            'mmext.Albumentations, or weaken the transforms.'
        )
    x1, y1, x2, y2 = boxes[0].tolist()
    return results['img'], (round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2))


def _free_name(name: Path, taken: set[str]) -> str:
    """A name beside the original's that no image has, which is taken then."""
    number = 1
    while (unique := name.with_name(f'{name.stem}_aug{number}{name.suffix}').as_posix()) in taken:
        number += 1
    taken.add(unique)
    return unique


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise OSError(f'cannot write the image {path}')


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(augment, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
