"""What `predict` does for photos with one object each: a submission as CSV, and pictures with the truth beside it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.structures import InstanceData

from mmext.datasets.localization_csv import Box, find_image, read_rows, write_rows
from mmext.datasets.report import Report
from mmext.evaluation.coco_results import class_name
from mmext.visualization.instances import draw_instances

# BGR.
TRUE_COLOR = (0, 200, 0)
FOUND_COLOR = (0, 0, 230)


class Submission:
    """One row a photo: its best object.

    Args:
        classes: names by label; empty where nobody knows them.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.rows: list[tuple[str, Box, str]] = []
        self.without: list[str] = []

    def add(self, found: InstanceData, name: str) -> None:
        """Take the object with the highest score of one photo; one without objects is remembered."""
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


def read_truth(path: Path, photos: Sequence[Path]) -> dict[str, tuple[Box, str]]:
    """The true objects of photos, from a CSV with labels.

    Args:
        path: the CSV.
        photos: whose boxes are wanted; rows are joined to them by the end of their paths.

    Returns:
        Photo as text -> box in pixels and class name.

    Raises:
        ValueError: a bad row, no labels, or a photo without a row.
    """
    report = Report()
    rows, _ = read_rows(path, report)
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
    if report.num_problems:
        raise ValueError(f'--truth {path} has bad rows:\n{report.text()}')
    if missing or len(truth) < len(photos):
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
    """The truth in green and what was found in red.

    Args:
        image: (H, W, 3) uint8 BGR.
        found: `bboxes` (n, 4), `labels`, `scores` (n,).
        true: box in pixels and class name.
        classes: names by label.
    """
    names = [
        f'{class_name(classes, label)} {score:.2f}'
        for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    ]
    boxes = np.concatenate([np.array([true[0]]), found.bboxes.numpy().reshape(-1, 4)])
    colors = [TRUE_COLOR, *[FOUND_COLOR] * len(names)]
    return draw_instances(image, boxes, names=[true[1], *names], colors=colors)
