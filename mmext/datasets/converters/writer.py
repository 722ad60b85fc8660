"""Write a raw data set as COCO: one annotation file a split and the images in one folder."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mmext.datasets.converters.records import ImageRecord, ObjectRecord, RawDataset
from mmext.datasets.converters.splits import SPLITS
from mmext.datasets.report import Report

REPORT_NAME = 'conversion_report.txt'


def write_coco(dataset: RawDataset, out: Path, report: Report, link: bool) -> dict[str, dict]:
    """Write `OUT/{train,val,test}.json`, `OUT/images/` and `OUT/conversion_report.txt`.

    Category ids start at 1 in the order of the classes, which is the same in every split; image and
    annotation ids are unique over all splits; `file_name` is relative to `OUT/images`.

    Args:
        dataset: Every image has its split.
        out: Made if it is missing; files of the same name are written over.
        report: Written beside the annotations with every entry.
        link: Hard-link the images instead of copying them (no second copy on disk, same file system only).

    Returns:
        The COCO dict of each split that has images.

    Raises:
        ValueError: No image is left, two images want one name, or a link is impossible.
    """
    place_images(dataset.images, out / 'images', report, link)
    category_ids = {name: index for index, name in enumerate(dataset.classes, start=1)}
    result = {}
    for split in SPLITS:
        (out / f'{split}.json').unlink(missing_ok=True)  # a split of an earlier conversion
    for split, coco in _coco_dicts(dataset.images, category_ids).items():
        result[split] = coco
        (out / f'{split}.json').write_text(json.dumps(coco), encoding='utf-8')
    (out / REPORT_NAME).write_text(report.text(max_shown=None) + '\n', encoding='utf-8')
    return result


def place_images(images: list[ImageRecord], folder: Path, report: Report, link: bool) -> None:
    """Copy or hard-link every image to its `file_name` below a folder.

    Args:
        images: The images that are used.
        folder: Made if it is missing; files of the same name are written over.
        report: Says why, if no image is left.
        link: Hard-link instead of copying.

    Raises:
        ValueError: No image is left, two images want one name, or a link is impossible.
    """
    if not images:
        raise ValueError(f'No usable image was found: {_first_problems(report)}')
    _check_names(images)
    folder.mkdir(parents=True, exist_ok=True)
    place = _link if link else shutil.copyfile
    for image in images:
        _place(image.path, folder / image.file_name, place)


def describe_object(record: ObjectRecord) -> dict:
    """The part of a COCO annotation that is about the object itself: `bbox`, `area`, `iscrowd`, `segmentation`."""
    return {
        'bbox': list(record.bbox),
        'area': record.area,
        'iscrowd': int(record.iscrowd),
        'segmentation': record.segmentation,
    }


def summary(split: str, coco: dict) -> str:
    """One line: images, images without objects, and objects of each class of a split."""
    names = {category['id']: category['name'] for category in coco['categories']}
    counts = Counter(names[annotation['category_id']] for annotation in coco['annotations'])
    num_empty = len(coco['images']) - len({a['image_id'] for a in coco['annotations']})
    objects = ', '.join(f'{name} {counts[name]}' for name in names.values())
    images = f'{len(coco["images"])} images ({num_empty} without objects)'
    return f'{split:5s} {images}, objects: {objects}'


def _coco_dicts(images: list[ImageRecord], category_ids: dict[str, int]) -> dict[str, dict]:
    categories = [
        {'id': index, 'name': name, 'supercategory': ''} for name, index in category_ids.items()
    ]
    result: dict[str, dict] = {}
    annotation_id = 0
    for image_id, image in enumerate(images, start=1):
        empty: dict = {'images': [], 'annotations': [], 'categories': categories}
        coco = result.setdefault(str(image.split), empty)
        coco['images'].append(
            {
                'id': image_id,
                'file_name': image.file_name,
                'width': image.width,
                'height': image.height,
            }
        )
        for record in image.objects:
            annotation_id += 1
            ids = {
                'id': annotation_id,
                'image_id': image_id,
                'category_id': category_ids[record.category],
            }
            coco['annotations'].append(ids | describe_object(record))
    return result


def _check_names(images: list[ImageRecord]) -> None:
    seen: dict[str, Path] = {}
    for image in images:
        if image.file_name in seen:
            raise ValueError(
                f'Two images want the name {image.file_name}: {seen[image.file_name]} and {image.path}.'
                ' Rename one of them.'
            )
        seen[image.file_name] = image.path


def _place(source: Path, target: Path, place: Callable[[Path, Path], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        if target.samefile(source):
            return  # linked by an earlier conversion; copying it over itself would destroy the raw file
        target.unlink()
    place(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        raise ValueError(
            f'Cannot hard-link {source} to {target} ({error.strerror}): both must lie on one file system.'
            ' Leave --link out to copy the images.'
        ) from error


def _first_problems(report: Report) -> str:
    """One line with every kind of problem and its first file."""
    kinds = [f'{len(files)} x {kind}: {files[0]}' for kind, files in report.problems.items()]
    return '; '.join(kinds) or 'the raw folder holds none.'
