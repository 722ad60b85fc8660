"""What is in a data set of single objects: sizes, channels, classes, boxes, brightness of the channels, mistakes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mmext.datasets.image_files import DAMAGED
from mmext.datasets.localization_csv import LabelledImage, find_image, read_rows
from mmext.datasets.report import Report
from mmext.datasets.transforms.loading import LoadImage

BOX_MEASURES = ('width', 'height', 'area', 'centre x', 'centre y', 'width / height')


@dataclass
class Exploration:
    """The facts of one CSV file.

    Attributes:
        path: the CSV.
        num_rows: of it, bad ones included.
        images: the good rows.
        report: the bad ones, each with its line.
        sizes: (width, height) in pixels -> images.
        modes: channels as stored, such as '3 (RGB)' -> images.
        classes: name -> images.
        mean: of each channel R, G, B over all pixels of all images, 0 to 255.
        std: their standard deviations.
    """

    path: Path
    num_rows: int
    images: list[LabelledImage]
    report: Report
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    mean: np.ndarray = field(default_factory=lambda: np.full(3, np.nan))
    std: np.ndarray = field(default_factory=lambda: np.full(3, np.nan))

    def boxes(self) -> np.ndarray:
        """(n, 6), for each box the numbers of `BOX_MEASURES`; all but the last are shares of the image."""
        rows = [
            (x1 / image.width, y1 / image.height, x2 / image.width, y2 / image.height)
            for image in self.images
            if image.box is not None
            for x1, y1, x2, y2 in [image.box]
        ]
        ratios = [
            (image.box[2] - image.box[0]) / (image.box[3] - image.box[1])
            for image in self.images
            if image.box is not None
        ]
        corners = np.array(rows, dtype=float).reshape(-1, 4)
        sides = corners[:, 2:] - corners[:, :2]
        centres = (corners[:, :2] + corners[:, 2:]) / 2
        return np.column_stack([sides, sides.prod(axis=1), centres, ratios])


def explore(path: Path, folder: Path, classes: Sequence[str] | None = None) -> Exploration:
    """Read a CSV file and every image of its good rows.

    Args:
        path: the CSV.
        folder: where the images lie.
        classes: known class names, None for any.

    Raises:
        ValueError: the file cannot be used at all. Bad rows are in the report instead.
    """
    report = Report()
    rows, num_rows = read_rows(path, report)
    found = (find_image(row, folder, report, classes=classes) for row in rows)
    images = [image for image in found if image is not None]
    result = Exploration(path, num_rows, [], report)
    moments = []
    for image in images:
        measured = _measure(image, report)
        if measured is not None:
            mode, moment = measured
            result.images.append(image)
            result.modes[mode] += 1
            moments.append(moment)
    result.sizes = Counter((image.width, image.height) for image in result.images)
    result.classes = Counter(image.row.category for image in result.images if image.box is not None)
    if moments:
        result.mean, result.std = _join(moments)
    return result


def load_photo(image: LabelledImage) -> np.ndarray:
    """The image as a network sees it, whatever its channels and depth: upright, (H, W, 3) uint8 BGR.

    Raises:
        ValueError: the file is damaged.
    """
    place = dict(img_path=str(image.path), height=image.height, width=image.width)
    return LoadImage().transform(place)['img']


def _measure(image: LabelledImage, report: Report) -> tuple[str, np.ndarray] | None:
    """Channels of a file, and (3, 3): pixels, sums and sums of squares of R, G, B; None for a damaged file."""
    try:
        with Image.open(image.path) as file:
            mode = f'{len(file.getbands())} ({file.mode})'
        pixels = load_photo(image)[..., ::-1].reshape(-1, 3).astype(np.float64)
    except DAMAGED as error:
        report.problem('image that cannot be read', image.row.where, f'{image.path}: {error}')
        return None
    number = np.full(3, len(pixels), dtype=np.float64)
    return mode, np.stack([number, pixels.sum(axis=0), np.square(pixels).sum(axis=0)])


def _join(moments: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over the pixels of all images."""
    number, total, squares = np.sum(list(moments), axis=0)
    mean = total / number
    return mean, np.sqrt(np.maximum(squares / number - mean**2, 0))
