"""Write a raw data set as images with mattes: two folders and one list a split, for `mmext.MatteDataset`."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmext.datasets.converters.planes import write_split_lists
from mmext.datasets.converters.records import ImageRecord, RawDataset
from mmext.datasets.converters.splits import SPLITS
from mmext.datasets.converters.writer import REPORT_NAME, place_images
from mmext.datasets.report import Report


@dataclass
class MatteRecord(ImageRecord):
    """One image and its matte.

    Attributes:
        alpha_png: The matte as a PNG file, grey, of the size of the image: 0 = background, 255 = foreground.
    """

    alpha_png: bytes = b''


def write_mattes(dataset: RawDataset, out: Path, report: Report, link: bool) -> list[str]:
    """Write `OUT/images/`, `OUT/alpha/`, `OUT/{train,val,test}.txt` and `OUT/conversion_report.txt`.

    Args:
        dataset: Its images are `MatteRecord`s, and every one has its split.
        out: Made if it is missing; files of the same name are written over.
        report: Written beside the lists with every entry.
        link: Hard-link the images instead of copying them.

    Returns:
        A line of text a split.

    Raises:
        ValueError: No image is left, two images want one name, or a link is impossible.
    """
    place_images(dataset.images, out / 'images', report, link)
    lists: dict[str, list[str]] = {}
    for image in dataset.images:
        assert isinstance(image, MatteRecord)
        path = out / 'alpha' / PurePosixPath(image.file_name).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.alpha_png)
        lists.setdefault(str(image.split), []).append(image.file_name)
    write_split_lists(out, lists)
    (out / REPORT_NAME).write_text(report.text(max_shown=None) + '\n', encoding='utf-8')
    return [f'{split:5s} {len(lists[split])} images' for split in SPLITS if split in lists]
