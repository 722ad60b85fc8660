"""Write the images of a raw data set that have exactly one object as CSV, one row an image."""

from collections import Counter
from pathlib import Path

from mmext.datasets.converters.records import ImageRecord, RawDataset
from mmext.datasets.converters.splits import SPLITS
from mmext.datasets.converters.writer import REPORT_NAME, place_images
from mmext.datasets.localization_csv import write_rows
from mmext.datasets.report import Report


def write_single_objects(dataset: RawDataset, out: Path, report: Report, link: bool) -> list[str]:
    """Write `OUT/{train,val,test}.csv`, `OUT/images/` and `OUT/conversion_report.txt`.

    The columns are those of `mmext.datasets.localization_csv.COLUMNS`, boxes in pixels, file names relative to
    `OUT/images`.

    Args:
        dataset: Every image has its split.
        out: Made if it is missing; files of the same name are written over.
        report: Takes a note for every image without objects, with several or with a crowd, which are left out.
        link: Hard-link the images instead of copying them.

    Returns:
        One line a split: images, and how many of each class.

    Raises:
        ValueError: No image is left, two images want one name, or a link is impossible.
    """
    images = [image for image in dataset.images if _is_single(image, report)]
    place_images(images, out / 'images', report, link)
    lines = []
    for split in SPLITS:
        path = out / f'{split}.csv'
        path.unlink(missing_ok=True)  # a split of an earlier conversion
        own = [image for image in images if image.split == split]
        if own:
            write_rows(path, (_row(image) for image in own))
            counts = Counter(image.objects[0].category for image in own)
            classes = ', '.join(f'{name} {counts[name]}' for name in dataset.classes)
            lines.append(f'{split:5s} {len(own)} images with one object: {classes}')
    (out / REPORT_NAME).write_text(report.text(max_shown=None) + '\n', encoding='utf-8')
    return lines


def _is_single(image: ImageRecord, report: Report) -> bool:
    number = len(image.objects)
    if number != 1:
        report.note('image that has not exactly one object, left out', image.path, f'{number}')
    elif image.objects[0].iscrowd:
        report.note('image whose only object is a crowd, left out', image.path)
        return False
    return number == 1


def _row(image: ImageRecord) -> tuple[str, tuple[float, float, float, float], str]:
    record = image.objects[0]
    x, y, width, height = record.bbox
    return image.file_name, (x, y, x + width, y + height), record.category
