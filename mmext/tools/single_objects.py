"""What the tools around single objects share, and what `predict` does for them.

Bad rows of a CSV, photos that are listed in one, a submission as CSV, and pictures with the truth beside what was found.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.structures import InstanceData

from mmext.apis.image_inputs import find_images
from mmext.datasets.localization_csv import Box, find_image, read_rows, write_rows
from mmext.datasets.report import Report
from mmext.evaluation.coco_results import class_name
from mmext.visualization.instances import draw_instances

# BGR.
TRUE_COLOR = (0, 200, 0)
FOUND_COLOR = (0, 0, 230)


def add_skip_bad_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that `accept_rows` wants to know."""
    parser.add_argument(
        '--skip-bad', action='store_true', help='leave bad rows of a CSV out and count them'
    )


def accept_rows(path: Path, report: Report, num_rows: int, *, skip_bad: bool) -> None:
    """Stop at bad rows of a CSV, or say that they are left out.

    Args:
        path: the CSV.
        report: the bad rows.
        num_rows: of the CSV.
        skip_bad: leave them out.

    Raises:
        ValueError: there are bad rows, and they are not to be left out.
    """
    if not report.num_problems:
        return
    text = f'{path}: {report.num_problems} of {num_rows} rows are bad'
    if not skip_bad:
        raise ValueError(
            f'{text}\n{report.text()}\nMend them (the page of tools/explore_dataset.py lists every one), or leave '
            'them out with --skip-bad.'
        )
    print(f'{text} and left out (--skip-bad)\n{report.text()}')


def add_single_object_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `predict` for photos with one object each."""
    parser.add_argument(
        '--csv',
        type=Path,
        metavar='FILE',
        help='also write the best object of each photo, one row each: filename,xmin,ymin,xmax,ymax,class; of semantic '
        'models, where the shares of the classes go (default: beside the JSON)',
    )
    parser.add_argument(
        '--truth',
        type=Path,
        metavar='CSV',
        help='such a file with the true objects: draws them in green, and what was found in red',
    )
    parser.add_argument(
        '--images', type=Path, metavar='DIR', help='folder of the images, where INPUT is a CSV'
    )
    add_skip_bad_argument(parser)


def list_photos(args: argparse.Namespace) -> tuple[list[Path], dict[str, str]]:
    """The photos of a command line, from files and folders or from the rows of a CSV.

    Args:
        args: `inputs`, and those of `add_single_object_arguments`.

    Returns:
        The photos in the order of the inputs; and for a CSV, photo as text -> its file name there.

    Raises:
        ValueError: a CSV among other inputs, without `--images` or with bad rows; options without effect; otherwise as
            `find_images`.
    """
    csvs = [Path(entry) for entry in args.inputs if entry.lower().endswith('.csv')]
    if args.skip_bad and not csvs and args.truth is None:
        raise ValueError('--skip-bad is for the rows of a CSV: got none, as INPUT or --truth')
    if not csvs:
        if args.images is not None:
            raise ValueError(f'--images {args.images} is for a CSV as INPUT: got none')
        return find_images(args.inputs), {}
    if len(args.inputs) > 1 or args.images is None:
        raise ValueError(
            f'got {csvs[0]} as INPUT, expected it alone and the folder of its images as --images DIR'
        )
    report = Report()
    rows, num_rows = read_rows(csvs[0], report)
    images = [find_image(row, args.images, report) for row in rows]
    accept_rows(csvs[0], report, num_rows, skip_bad=args.skip_bad)
    listed = {str(image.path): image.row.filename for image in images if image is not None}
    if not listed:
        raise ValueError(f'{csvs[0]}: no row with a photo is left')
    return [Path(path) for path in listed], listed


class Submission:
    """One row a photo: its best object.

    Args:
        classes: names by label; empty where nobody knows them.
        listed: photo as text -> its file name in the rows; of other photos it is the name that `add` is told.
    """

    def __init__(self, classes: Sequence[str], listed: Mapping[str, str] | None = None) -> None:
        self.classes = classes
        self.listed = listed or {}
        self.rows: list[tuple[str, Box, str]] = []
        self.without: list[str] = []

    def add(self, found: InstanceData, photo: str, name: str) -> None:
        """Take the object with the highest score of one photo; one without objects is remembered."""
        name = self.listed.get(photo, name)
        if not len(found.scores):
            self.without.append(name)
            return
        best = int(found.scores.argmax())
        x1, y1, x2, y2 = found.bboxes[best].tolist()
        label = int(found.labels[best])
        self.rows.append((name, (x1, y1, x2, y2), class_name(self.classes, label)))

    def write(self, path: Path) -> None:
        """Write the rows: class names, pixels of the original image with two decimals."""
        rounded = [
            (name, (round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2)), category)
            for name, (x1, y1, x2, y2), category in self.rows
        ]
        write_rows(path, rounded)

    def faults(self) -> list[str]:
        """What is wrong with the rows: photos in which nothing was found have none."""
        if not self.without:
            return []
        return [
            f'{len(self.without)} photos have no row in the CSV, since nothing was found in them; the first is '
            f'{self.without[0]}. Lower --score-thr.'
        ]


def read_truth(
    path: Path, photos: Sequence[Path], *, skip_bad: bool = False
) -> dict[str, tuple[Box, str]]:
    """The true objects of photos, from a CSV with labels.

    Args:
        path: the CSV.
        photos: whose boxes are wanted; rows are joined to them by the end of their paths.
        skip_bad: leave bad rows out.

    Returns:
        Photo as text -> box in pixels and class name; photos whose row is left out are absent.

    Raises:
        ValueError: a bad row, no labels, or a photo without a row.
    """
    report = Report()
    rows, num_rows = read_rows(path, report)
    by_name = {Path(row.filename).as_posix(): row for row in rows}
    truth, missing = {}, []
    for photo in photos:
        parts = photo.absolute().parts
        ends = ('/'.join(parts[start:]) for start in range(len(parts)))
        end = next((end for end in ends if end in by_name), None)
        if end is None:
            missing.append(photo)
            continue
        folder = photo.absolute().as_posix().removesuffix(end)
        image = find_image(by_name[end], folder, report)
        if image is not None and image.box is not None:
            truth[str(photo)] = (image.box, image.row.category)
    accept_rows(path, report, num_rows, skip_bad=skip_bad)
    # Whether a photo has no row or a bad one cannot always be told.
    if len(truth) < len(photos) and not (report.num_problems and truth):
        first = missing[0] if missing else photos[0]
        raise ValueError(
            f'--truth {path}: got no labelled row for {len(photos) - len(truth)} of {len(photos)} photos, the first '
            f'is {first}; expected one for each. Correct its filenames, or leave --truth out.'
        )
    return truth


def draw_single(
    image: np.ndarray,
    found: InstanceData,
    true: tuple[Box, str],
    classes: Sequence[str],
) -> np.ndarray:
    """The truth in green and what was found in red; where the class is wrong, the red text says which is true.

    Args:
        image: (H, W, 3) uint8 BGR.
        found: `bboxes` (n, 4), `labels`, `scores` (n,).
        true: box in pixels and class name.
        classes: names by label.
    """
    names = []
    for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True):
        name = class_name(classes, label)
        # The name of the true box is below this one where both boxes begin alike.
        names.append(f'{name} {score:.2f}' + ('' if name == true[1] else f', is {true[1]}'))
    boxes = np.concatenate([np.array([true[0]]), found.bboxes.numpy().reshape(-1, 4)])
    colors = [TRUE_COLOR, *[FOUND_COLOR] * len(names)]
    return draw_instances(image, boxes, names=[true[1], *names], colors=colors)
