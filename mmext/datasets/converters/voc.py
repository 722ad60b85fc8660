"""Pascal VOC: one XML file an image, boxes in pixels (also what labelImg writes).

Raw layout: `Annotations/*.xml`, `JPEGImages/`, and maybe `ImageSets/Main/{train,val,test}.txt` with one name a
line. XML files beside the images or anywhere below RAW are found, too. Classes are those of `--classes`, or
of `classes.txt` (one a line), or all that occur, in alphabetical order. Objects marked `difficult` become
`iscrowd`: neither learnt nor counted as a miss.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from mmext.datasets.converters.files import find_image, image_size, listed_classes, split_of
from mmext.datasets.converters.objects import object_from_box
from mmext.datasets.converters.records import ImageRecord, ObjectRecord, RawDataset
from mmext.datasets.converters.splits import SPLITS
from mmext.datasets.report import Report


@dataclass
class Voc:
    """VOC counts pixels from 1 and its last pixel belongs to the box: xmin=1, xmax=W is the whole width."""

    classes: str = field(
        default='', metadata={'help': 'names, separated by commas (default: classes.txt, or all)'}
    )
    first_pixel: int = field(
        default=1,
        metadata={
            'type': int,
            'choices': (0, 1),
            'help': 'number of the first pixel: 1 as in VOC, 0 where another tool wrote the files',
        },
    )

    def read(self, raw: Path, report: Report) -> RawDataset:
        """See `Converter.read`."""
        paths = sorted(raw.rglob('*.xml'))
        if not paths:
            raise ValueError(
                f'No XML file lies below {raw}. Give the folder that holds Annotations/.'
            )
        splits = _listed_splits(raw, paths, report)
        trees = [(path, root) for path in paths if (root := _parse(path, report)) is not None]
        classes = self._classes(raw, trees)
        images = []
        for path, root in trees:
            image = self._read_image(path, root, raw, classes, report)
            if image is not None:
                image.split = splits.get(path.stem) or split_of(path, raw)
                images.append(image)
        return RawDataset(classes, images)

    def _classes(self, raw: Path, trees: list[tuple[Path, ElementTree.Element]]) -> list[str]:
        if self.classes:
            return [name.strip() for name in self.classes.split(',')]
        occurring = {_name(element) for _, root in trees for element in root.iter('object')}
        return listed_classes(raw) or sorted(occurring - {''})

    def _read_image(
        self, path: Path, root: ElementTree.Element, raw: Path, classes: list[str], report: Report
    ) -> ImageRecord | None:
        image_path = _image_path(path, root, raw)
        stated = _stated_size(root)
        if stated is None:
            report.problem('no size in the XML file, taken from the image', path)
        size = image_size(image_path, report, stated)
        if size is None:
            return None
        image = ImageRecord(image_path, image_path.relative_to(raw).as_posix(), *size)
        for number, element in enumerate(root.iter('object'), start=1):
            record = self._read_object(element, classes, size, report, (path, f'object {number}'))
            if record is not None:
                image.objects.append(record)
        return image

    def _read_object(
        self,
        element: ElementTree.Element,
        classes: list[str],
        size: tuple[int, int],
        report: Report,
        where: tuple[Path, str],
    ) -> ObjectRecord | None:
        name = _name(element)
        if name not in classes:
            report.problem('unknown class, object left out', where[0], f'{where[1]}: {name!r}')
            return None
        corners = [_number(element, f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax')]
        if not all(math.isfinite(value) for value in corners):
            report.problem('box without four numbers, object left out', *where)
            return None
        x1, y1, x2, y2 = corners
        if x2 > x1 and y2 > y1:  # the corners are equal in boxes that were clicked by mistake
            x1, y1 = x1 - self.first_pixel, y1 - self.first_pixel
        record = object_from_box((x1, y1, x2, y2), name, size, report, where)
        if record is not None:
            record.iscrowd = _number(element, 'difficult') == 1
        return record


def _parse(path: Path, report: Report) -> ElementTree.Element | None:
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, UnicodeDecodeError) as error:
        report.problem('malformed XML, image left out', path, str(error))
        return None
    if root.tag != 'annotation':
        report.problem('XML without <annotation>, left out', path, f'<{root.tag}>')
        return None
    return root


def _listed_splits(raw: Path, paths: list[Path], report: Report) -> dict[str, str]:
    """Name without suffix -> split, from ImageSets/Main. A name in two lists keeps the first."""
    known = {path.stem for path in paths}
    result: dict[str, str] = {}
    for split in SPLITS:
        listing = raw / 'ImageSets' / 'Main' / f'{split}.txt'
        lines = listing.read_text(encoding='utf-8').splitlines() if listing.is_file() else []
        for name in (line.split()[0] for line in lines if line.strip()):
            if name not in known:
                report.problem('listed image without an XML file, left out', listing, name)
            elif result.setdefault(name, split) != split:
                report.problem(f'image in two splits, kept in {result[name]}', listing, name)
    return result


def _image_path(path: Path, root: ElementTree.Element, raw: Path) -> Path:
    """The image of an XML file: by its <filename>, else by the name of the XML file, which may be wrong."""
    folders = [*_image_folders(path, raw)]
    # Written on any system, some with the folder and some without the suffix.
    name = (root.findtext('filename') or '').strip().replace('\\', '/').rpartition('/')[2]
    for folder in folders if name else []:
        if (folder / name).is_file():
            return folder / name
    return find_image(folders, path.stem) or folders[0] / (name or f'{path.stem}.jpg')


def _image_folders(path: Path, raw: Path) -> Iterator[Path]:
    for parent in (path.parent.parent, raw) if path.parent != raw else (raw,):
        yield parent / 'JPEGImages'
        yield parent / 'images'
    yield path.parent
    yield raw


def _stated_size(root: ElementTree.Element) -> tuple[int, int] | None:
    """(width, height) of <size>; None where it is missing or 0, as some tools write it."""
    width, height = _number(root, 'size/width'), _number(root, 'size/height')
    return (int(width), int(height)) if width > 0 and height > 0 else None


def _name(element: ElementTree.Element) -> str:
    return (element.findtext('name') or '').strip()


def _number(element: ElementTree.Element, path: str) -> float:
    """The number at a path, nan where there is none."""
    try:
        return float(element.findtext(path) or 'nan')
    except ValueError:
        return math.nan
