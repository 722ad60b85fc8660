"""Faces with and without masks, in COCO as Roboflow exports it: `annotations/custom_{train,val}.json`, `{train,val}2017/`.

Boxes only. With --csv the images with exactly one face are written, 264 for training and 65 for validation: the data of
the single-object localizer.
"""

from dataclasses import dataclass
from pathlib import Path

from mmext.datasets.coco import CocoFile, parse_instance, read_coco
from mmext.datasets.converters.files import image_size
from mmext.datasets.converters.records import ImageRecord, ObjectRecord, RawDataset
from mmext.datasets.report import Report

SPLITS = ('train', 'val')
KEYS = ('image_id', 'category_id', 'bbox')


@dataclass
class FaceMask:
    """The classes are the categories of the files, in the order of their ids."""

    def read(self, raw: Path, report: Report) -> RawDataset:
        """See `Converter.read`."""
        files = {split: raw / 'annotations' / f'custom_{split}.json' for split in SPLITS}
        cocos = {split: read_coco(str(path), None, KEYS, report) for split, path in files.items()}
        first, second = (coco.categories for coco in cocos.values())
        if first != second:
            raise ValueError(
                f'{files["train"]} and {files["val"]} have different categories: got {first} and {second}, expected '
                'the same ids and names. Mend one of them.'
            )
        images = [
            record
            for split, coco in cocos.items()
            for image in coco.images
            if (record := _read_image(image, split, coco, raw, report)) is not None
        ]
        return RawDataset([first[index] for index in sorted(first)], images)


def _read_image(
    image: dict, split: str, coco: CocoFile, raw: Path, report: Report
) -> ImageRecord | None:
    path = raw / f'{split}2017' / image['file_name']
    size = image_size(path, report, (image['width'], image['height']))
    if size is None:
        return None
    record = ImageRecord(path, f'{split}/{image["file_name"]}', *size, split=split)
    for annotation in coco.annotations.get(image['id'], []):
        instance = parse_instance(annotation, image, 0, False, report)
        if instance is not None:
            x1, y1, x2, y2 = instance['bbox']
            box = (x1, y1, x2 - x1, y2 - y1)
            name = coco.categories[annotation['category_id']]
            record.objects.append(
                ObjectRecord(name, box, box[2] * box[3], iscrowd=bool(instance['ignore_flag']))
            )
    return record
