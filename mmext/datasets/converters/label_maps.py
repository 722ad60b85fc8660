"""Write a raw data set for semantic segmentation: images, one map of class indices each, one list a split.

mmseg's `BaseSegDataset` reads it: `ann_file='train.txt'`, `data_prefix=dict(img_path='images', seg_map_path='labels')`
and `img_suffix`. Maps are grey PNG files of 8 bits: 0 is the first class, 255 is "not labelled".
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mmext.datasets.converters.files import image_size
from mmext.datasets.converters.planes import encode_png, write_split_lists
from mmext.datasets.converters.records import ImageRecord, ObjectRecord, RawDataset
from mmext.datasets.converters.splits import SPLITS
from mmext.datasets.converters.writer import REPORT_NAME, place_images
from mmext.datasets.report import Report
from mmext.structures.label_maps import NOT_LABELLED, count_values

BACKGROUND = 'background'
FOLDER = 'labels'


@dataclass
class LabelRecord(ImageRecord):
    """One image and its map of classes; see `label_record`.

    Attributes:
        label_png: The map as a PNG file, of the size of the image.
        label_counts: Value -> pixels of the map.
    """

    label_png: bytes = b''
    label_counts: Counter[int] = field(default_factory=Counter)


class Drawing(NamedTuple):
    """Objects drawn into one map.

    Attributes:
        labels: (h, w) uint8; 0 where there is no object.
        num_covered: Pixels of objects that lie under another object.
        num_unknown: Objects whose pixels are not known: their place is `NOT_LABELLED`.
    """

    labels: NDArray[np.uint8]
    num_covered: int
    num_unknown: int


def label_record(image: ImageRecord, labels: NDArray[np.uint8]) -> LabelRecord:
    """An image with its map (h, w)."""
    return LabelRecord(
        **vars(image), label_png=encode_png(labels), label_counts=count_values(labels)
    )


def draw_objects(
    objects: Sequence[ObjectRecord], values: Mapping[str, int], size: tuple[int, int]
) -> Drawing:
    """Draw objects into one map.

    A pixel can have one class only: the smaller object lies on top (a scratch on a stain), of two of one size the
    later. Crowds, and objects known by their box alone, are drawn first, as `NOT_LABELLED`: which pixels of the box are
    object nobody knows, and as background they would be learnt wrong.

    Args:
        objects: Of one image.
        values: Class name -> value in the map, 1 or more.
        size: (width, height) of the image.
    """
    labels = np.zeros(size[::-1], np.uint8)
    known = [own for own in objects if own.segmentation and not own.iscrowd]
    for own in objects:
        if own.iscrowd or not own.segmentation:
            labels[_pixels(own, size)] = NOT_LABELLED
    num_covered = 0
    # Sorting is stable: of equal areas the order of the file stays.
    for own in sorted(known, key=lambda record: -record.area):
        pixels = _pixels(own, size)
        below = labels[pixels]
        num_covered += int(((below != 0) & (below != NOT_LABELLED)).sum())
        labels[pixels] = values[own.category]
    return Drawing(labels, num_covered, len(objects) - len(known))


def draw_label_maps(dataset: RawDataset, report: Report) -> RawDataset:
    """The same images with maps instead of objects; the class `background` stands in front of the others.

    Args:
        dataset: Objects with masks or polygons; the specks of images are drawn like objects, as the masks have them.
        report: Takes images whose annotation is not in the upright frame, which are left out, and notes on objects
            that overlap or are not labelled.

    Raises:
        ValueError: More classes than a map of 8 bits can hold, or objects of which none has a mask.
    """
    classes = [BACKGROUND, *dataset.classes]
    if len(classes) > NOT_LABELLED:
        raise ValueError(f'Got {len(classes)} classes; a map of 8 bits holds {NOT_LABELLED}.')
    objects = [own for image in dataset.images for own in image.objects]
    if objects and not any(own.segmentation for own in objects):
        raise ValueError(
            f'None of the {len(objects)} objects has a mask or an outline, all are boxes: maps of classes cannot be '
            'drawn. Convert without --semantic.'
        )
    values = {name: value for value, name in enumerate(classes)}
    records = []
    for image in dataset.images:
        size = (image.width, image.height)
        if image_size(image.path, report) != size:
            report.problem('annotated as stored, not upright; image left out', image.path)
            continue
        drawing = draw_objects([*image.objects, *image.specks], values, size)
        if drawing.num_covered:
            detail = f'{drawing.num_covered} pixels'
            report.note('objects overlap, the smaller lies on top', image.path, detail)
        if drawing.num_unknown:
            kind = f'crowds or objects known by their box alone, not labelled ({NOT_LABELLED})'
            report.note(kind, image.path, f'{drawing.num_unknown} objects')
        records.append(label_record(image, drawing.labels))
    return RawDataset(classes, list(records))


def write_label_maps(dataset: RawDataset, out: Path, report: Report, link: bool) -> list[str]:
    """Write `OUT/images/`, `OUT/labels/`, `OUT/classes.txt`, `OUT/{train,val,test}.txt` and the report.

    The lists hold names without suffix, as `BaseSegDataset` wants them; line N of classes.txt, counted from 0, is the
    class of value N.

    Args:
        dataset: Its images are `LabelRecord`s, and every one has its split.
        out: Made if it is missing; files of the same name are written over.
        report: Written beside the lists with every entry.
        link: Hard-link the images instead of copying them.

    Returns:
        A line of text a split, and one with what the config must say.

    Raises:
        ValueError: No image is left, two images want one name, a link is impossible, or the images have several suffixes.
    """
    suffix = common_suffix([image.file_name for image in dataset.images])
    place_images(dataset.images, out / 'images', report, link)
    names: dict[str, list[str]] = {}
    counts: dict[str, Counter[int]] = {}
    for image in dataset.images:
        assert isinstance(image, LabelRecord)
        name, split = image.file_name.removesuffix(suffix), str(image.split)
        path = out / FOLDER / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.label_png)
        names.setdefault(split, []).append(name)
        counts.setdefault(split, Counter()).update(image.label_counts)
    write_lists(out, dataset.classes, names)
    (out / REPORT_NAME).write_text(report.text(max_shown=None) + '\n', encoding='utf-8')
    lines = [
        split_line(split, len(names[split]), counts[split], dataset.classes)
        for split in SPLITS
        if split in names
    ]
    return [*lines, config_line(dataset.classes, suffix)]


def common_suffix(file_names: Iterable[str]) -> str:
    """The suffix of all images, '' of none.

    Raises:
        ValueError: There are several; `BaseSegDataset` knows one.
    """
    counts = Counter(Path(name).suffix for name in file_names)
    if len(counts) > 1:
        found = ', '.join(f'{count} x {suffix}' for suffix, count in counts.items())
        raise ValueError(
            f'The images have several suffixes ({found}); BaseSegDataset reads images of one. Convert them to one format.'
        )
    return next(iter(counts), '')


def write_lists(out: Path, classes: Sequence[str], names: Mapping[str, Sequence[str]]) -> None:
    """Write `OUT/classes.txt` and the list of each split; lists of an earlier conversion go."""
    (out / 'classes.txt').write_text(''.join(f'{own}\n' for own in classes), encoding='utf-8')
    write_split_lists(out, names)


def split_line(split: str, num_images: int, counts: Counter[int], classes: Sequence[str]) -> str:
    """One line: images, and the share of pixels of each class of a split."""
    total = max(sum(counts.values()), 1)
    shares = [f'{name} {counts[value] / total:.2%}' for value, name in enumerate(classes)]
    if counts[NOT_LABELLED]:
        shares.append(f'not labelled {counts[NOT_LABELLED] / total:.2%}')
    return f'{split:5s} {num_images} images, pixels: {", ".join(shares)}'


def config_line(classes: Sequence[str], suffix: str) -> str:
    """What a config must say to read the maps."""
    return f'config: img_suffix={suffix!r}, metainfo=dict(classes={tuple(classes)}), num_classes={len(classes)}'


def _pixels(own: ObjectRecord, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (h, w) of an object; its box where there is no mask."""
    width, height = size
    parts = own.segmentation
    if not parts:
        x, y, w, h = own.bbox
        pixels = np.zeros((height, width), bool)
        left, top = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
        pixels[top : int(np.ceil(y + h)), left : int(np.ceil(x + w))] = True
        return pixels
    rle = (
        coco_mask.merge(coco_mask.frPyObjects(parts, height, width))
        if isinstance(parts, list)
        else parts
    )
    return coco_mask.decode(rle).astype(bool)
