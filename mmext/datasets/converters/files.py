"""Files of a raw data set: images, their sizes, the splits that folders are named after, class lists."""

from pathlib import Path

from PIL import Image

from mmext.datasets.image_files import DAMAGED, damage
from mmext.datasets.report import Report
from mmext.structures.orientation import upright_size

SUFFIXES = frozenset(('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'))
# Folder names in use for the splits.
SPLIT_NAMES = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
}


def find_images(folder: Path) -> list[Path]:
    """All image files below a folder, in the order of their names."""
    return sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES)


def find_image(folders: list[Path], stem: str) -> Path | None:
    """The image with a name without suffix, in the first of the folders that has one."""
    for folder in folders:
        for suffix in sorted(SUFFIXES):
            for path in (folder / f'{stem}{suffix}', folder / f'{stem}{suffix.upper()}'):
                if path.is_file():
                    return path
    return None


def split_of(path: Path, root: Path) -> str | None:
    """The split that a folder between `root` and the file is named after."""
    for part in path.relative_to(root).parts[:-1]:
        if part.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[part.lower()]
    return None


def listed_classes(raw: Path) -> list[str]:
    """The class names of `classes.txt`, one a line; an empty list if there is no such file."""
    path = raw / 'classes.txt'
    text = path.read_text(encoding='utf-8-sig') if path.is_file() else ''
    return [line.strip() for line in text.strip().splitlines()]


def image_size(
    path: Path, report: Report, stated: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """(width, height) of an image in the frame of its annotation.

    Args:
        path: The image.
        report: Takes why the image is left out: it is missing, unreadable, truncated, or of another size.
        stated: (width, height) by the annotation. It may be that of the upright image or that of the image as
            stored, where an EXIF tag turns it.

    Returns:
        `stated`, or the size of the upright image where nothing is stated; None if the image is left out.
    """
    if not path.is_file():
        report.problem('missing image, left out', path)
        return None
    problem = damage(path.read_bytes())
    if problem:
        report.problem('unreadable or truncated image, left out', path, problem)
        return None
    try:
        with Image.open(path) as image:
            stored, upright = image.size, upright_size(image)
    except DAMAGED as error:
        report.problem('unreadable or truncated image, left out', path, str(error))
        return None
    if stated is not None and stated not in (upright, stored):
        detail = f'annotation {stated[0]} x {stated[1]}, file {upright[0]} x {upright[1]}'
        report.problem('size that differs from the file, image left out', path, detail)
        return None
    return stated or upright
