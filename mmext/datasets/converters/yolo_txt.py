"""YOLO: one text file an image, a line an object: `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`.

Coordinates are shares of the width and height of the upright image; five numbers are a box, seven or more an
outline. Raw layouts: `images/**` with `labels/**` of the same structure (or `train/images`, `train/labels`), or
text files beside the images. Class names: `names` of `data.yaml` (or another YAML file in RAW), or
`classes.txt`, one a line. Splits: the `train`, `val`, `test` of the YAML file, or folders of these names.
An image without a text file has no objects, as in the format's own trainers; the report notes it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from mmext.datasets.converters.files import find_images, image_size, listed_classes, split_of
from mmext.datasets.converters.objects import object_from_box, object_from_polygon
from mmext.datasets.converters.records import ImageRecord, ObjectRecord, RawDataset
from mmext.datasets.converters.splits import SPLITS
from mmext.datasets.report import Report

# Text files that hold no objects.
OTHER_TEXTS = frozenset(('classes', 'labels', 'train', 'val', 'valid', 'test', 'obj', 'readme'))


@dataclass
class YoloTxt:
    """Boxes and outlines may be mixed; an object known by its box alone has no segmentation."""

    def read(self, raw: Path, report: Report) -> RawDataset:
        """See `Converter.read`."""
        paths = find_images(raw)
        if not paths:
            raise ValueError(
                f'No image lies below {raw}. Give the folder that holds images/ and labels/.'
            )
        settings = _settings(raw)
        classes = _class_names(raw, settings)
        splits = _yaml_splits(raw, settings, paths, report)
        labels = {path: _label_path(path, raw) for path in paths}
        _report_strays(raw, set(labels.values()), report)
        images = []
        for path in paths:
            size = image_size(path, report)
            if size is None:
                continue
            image = ImageRecord(path, path.relative_to(raw).as_posix(), *size)
            image.split = splits.get(path) or split_of(path, raw)
            image.objects = _read_objects(labels[path], classes, size, report)
            images.append(image)
        return RawDataset(classes, images)


def _settings(raw: Path) -> dict:
    """The data set's YAML file, an empty dict if there is none."""
    for path in sorted([*raw.glob('*.yaml'), *raw.glob('*.yml')]):
        try:
            content = yaml.safe_load(path.read_text(encoding='utf-8'))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            message = ' '.join(str(error).split())
            raise ValueError(f'{path} is no YAML file ({message}). Mend or remove it.') from error
        if isinstance(content, dict) and 'names' in content:
            return content
    return {}


def _class_names(raw: Path, settings: dict) -> list[str]:
    names = settings.get('names')
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise ValueError(
                f'The names in the YAML file of {raw} are not numbered from 0: {names}.'
            )
        names = [names[index] for index in range(len(names))]
    elif names is None:
        names = listed_classes(raw)
    if not isinstance(names, list) or not names:
        raise ValueError(
            f'{raw} names no classes. Write data.yaml with `names: [...]`, or classes.txt with one a line.'
        )
    return [str(name).strip() for name in names]


def _yaml_splits(raw: Path, settings: dict, paths: list[Path], report: Report) -> dict[Path, str]:
    """Image -> split, from the folders and lists that the YAML file names; what is not there is reported."""
    base = raw / str(settings.get('path') or '')
    result: dict[Path, str] = {}
    resolved = {path.resolve(): path for path in paths}
    for split in SPLITS:
        for entry in _split_entries(settings, split, raw):
            # Some exports count from a folder that is not there: ../train/images.
            below = entry.removeprefix('../').removeprefix('./')
            places = [base / entry, raw / entry, raw / below]
            place = next((place.resolve() for place in places if place.exists()), None)
            if place is None:
                report.problem('split not found, its images are dealt anew', base / entry, split)
            for path, image in resolved.items():
                if place is not None and place.is_dir() and path.is_relative_to(place):
                    result.setdefault(image, split)
            if place is not None and place.is_file():
                for line in place.read_text(encoding='utf-8').splitlines():
                    listed = resolved.get((place.parent / line.strip()).resolve())
                    if listed is not None:
                        result.setdefault(listed, split)
                    elif line.strip():
                        report.problem('listed image not found', place, line.strip())
    return result


def _split_entries(settings: dict, split: str, raw: Path) -> list[str]:
    """The folders and lists of one split, as the YAML file writes them: none, one or several."""
    entries = settings.get(split) or []
    result = [entries] if isinstance(entries, str) else entries
    if not isinstance(result, list) or not all(isinstance(entry, str) for entry in result):
        raise ValueError(
            f'`{split}` in the YAML file of {raw} is {entries}. Write a folder, a list file, or several in [...].'
        )
    return result


def _label_path(path: Path, raw: Path) -> Path:
    """The text file of an image: below `labels` where the image is below `images`, else beside it."""
    parts = list(path.relative_to(raw).parts)
    if 'images' in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index('images')
        parts[last] = 'labels'
    return raw.joinpath(*parts).with_suffix('.txt')


def _report_strays(raw: Path, expected: set[Path], report: Report) -> None:
    """Report text files with objects whose image is not there."""
    for path in sorted(raw.rglob('*.txt')):
        if path not in expected and path.stem.lower() not in OTHER_TEXTS:
            report.problem('missing image, text file left out', path)


def _read_objects(
    path: Path, classes: list[str], size: tuple[int, int], report: Report
) -> list[ObjectRecord]:
    if not path.is_file():
        report.note('no text file, taken as an image without objects', path)
        return []
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except UnicodeDecodeError as error:
        report.problem('text file is not text, its objects left out', path, str(error))
        return []
    objects = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            record = _read_line(line, classes, size, report, (path, f'line {number}'))
            if record is not None:
                objects.append(record)
    return objects


def _read_line(
    line: str, classes: list[str], size: tuple[int, int], report: Report, where: tuple[Path, str]
) -> ObjectRecord | None:
    file, place = where
    try:
        label, *numbers = (float(word) for word in line.split())
    except ValueError:
        report.problem('line that is not numbers, object left out', file, f'{place}: {line[:60]!r}')
        return None
    if label not in range(len(classes)):
        report.problem('unknown class, object left out', file, f'{place}: {line.split()[0]}')
        return None
    name = classes[int(label)]
    if len(numbers) == 4:
        (cx, cy, w, h), (width, height) = numbers, size
        box = (
            (cx - w / 2) * width,
            (cy - h / 2) * height,
            (cx + w / 2) * width,
            (cy + h / 2) * height,
        )
        return object_from_box(box, name, size, report, where)
    if len(numbers) < 6 or len(numbers) % 2:
        detail = f'{place}: {len(numbers)} numbers behind the class'
        report.problem(
            'neither a box nor an outline of 3 points or more, object left out', file, detail
        )
        return None
    points = np.array(numbers).reshape(-1, 2) * size
    return object_from_polygon(points, name, size, report, where)
