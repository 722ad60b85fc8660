"""What every converter produces: images with their objects, in pixels, ready for the COCO writer."""

from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mmext.datasets.report import Report


@dataclass
class ObjectRecord:
    """One object.

    Attributes:
        category: Class name, one of `RawDataset.classes`.
        bbox: (x, y, width, height) in pixels of the image.
        area: Pixels of the mask, or width times height of the box where there is no mask.
        segmentation: COCO run-length dict (`size` (h, w), `counts` str), polygons [[x1, y1, ...], ...], or
            an empty list where only the box is known.
        iscrowd: Whether the object is neither learnt nor counted as a miss.
    """

    category: str
    bbox: tuple[float, float, float, float]
    area: float
    segmentation: dict | list = field(default_factory=list)
    iscrowd: bool = False


@dataclass
class ImageRecord:
    """One image and its objects.

    Attributes:
        path: The file on disk.
        file_name: Where the file goes below `OUT/images`, with forward slashes.
        width: Pixels, in the frame of the objects: upright by the EXIF tag, or as stored.
        height: The same.
        objects: May be empty: a normal image.
        split: `train`, `val` or `test`, or None where the raw data does not say.
        group: Images of one group (one tile, one patient) go to the same split.
        stratum: The class whose shares the split keeps equal; the first object's where it is empty.
        specks: What the mask marks in pieces too small for objects: only maps of classes show it, one record a class.
        kept: False for an image that takes part in the split and is left out then, so that the split of the
            others is the same with and without it.
    """

    path: Path
    file_name: str
    width: int
    height: int
    objects: list[ObjectRecord] = field(default_factory=list)
    split: str | None = None
    group: str = ''
    stratum: str = ''
    specks: list[ObjectRecord] = field(default_factory=list)
    kept: bool = True


@dataclass
class RawDataset:
    """All images of a raw data set and its class names, in the order of their labels.

    Raises:
        ValueError: A class name is there twice: its objects could not be told apart, and other labels would shift.
    """

    classes: list[str]
    images: list[ImageRecord]

    def __post_init__(self) -> None:
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise ValueError(
                f'These class names are there more than once: {repeated}, in {self.classes}. Give every class '
                'its own name.'
            )


class Converter(Protocol):
    """Reads one raw format. A converter is a dataclass: its fields are its options on the command line."""

    def read(self, raw: Path, report: Report) -> RawDataset:
        """Read the raw data.

        Args:
            raw: The folder as published.
            report: Takes every problem found.

        Raises:
            ValueError: Nothing below `raw` can be used.
        """
        ...


def count(text: str) -> int:
    """The `type` of an option that is a number of things.

    Raises:
        ArgumentTypeError: It is not a whole number of 0 or more.
    """
    if not text.isdecimal():
        raise ArgumentTypeError(f'got {text}, expected a whole number of 0 or more')
    return int(text)
