"""What a user means by images: files, folders, patterns; and what becomes of those that cannot be read."""

import glob
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import cv2

# Formats that OpenCV reads, and writes in colour.
SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')

# Called with the path of an image, None for one in memory, and with what is wrong with it.
OnError: TypeAlias = Callable[[Path | None, Exception], None]

# What the loaders of mmext and mmcv raise for a file that they cannot read.
UNREADABLE = (ValueError, OSError, AssertionError, cv2.error)


def find_images(inputs: Iterable[str | Path] | str | Path) -> list[Path]:
    """The image files that are meant, each once, in the order of the inputs.

    Args:
        inputs: one or several of: an image file; a folder, of which all images at any depth are taken, sorted;
            a pattern with `*`, `?` or `[...]` (`**` for any depth).

    Raises:
        ValueError: an input is not there, has no images, or is a file of another kind.
    """
    if isinstance(inputs, (str, Path)):
        inputs = [inputs]
    # A dict keeps the order; the key makes a file that is named twice one.
    found = {os.path.realpath(path): path for entry in inputs for path in _expand(Path(entry))}
    return list(found.values())


def other_files(folder: Path) -> list[Path]:
    """Files below a folder that `find_images` passes over for their ending, sorted; what is hidden is not counted."""
    others = (path for path in folder.rglob('*') if path.is_file() and not _is_image(path))
    return sorted(
        path
        for path in others
        if not any(part.startswith('.') for part in path.relative_to(folder).parts)
    )


def relative_names(paths: Iterable[Path]) -> list[str]:
    """Names below the deepest folder that holds all files, with `/`: no two files have the same.

    Args:
        paths: different files.
    """
    absolute = [path.absolute() for path in paths]
    if not absolute:
        return []
    root = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(root).as_posix() for path in absolute]


def _expand(entry: Path) -> list[Path]:
    if entry.is_dir():
        found = sorted(path for path in entry.rglob('*') if _is_image(path))
        if not found:
            raise ValueError(f'the folder {entry} has no images; expected files {_known()}')
        return found
    if entry.is_file():
        if not _is_image(entry):
            raise ValueError(f'{entry} is no image file; expected a name ending in {_known()}')
        return [entry]
    if not glob.has_magic(str(entry)):
        raise ValueError(f'{entry} does not exist; expected an image, a folder or a pattern')
    found = sorted(map(Path, glob.glob(str(entry), recursive=True)))
    found = [path for path in found if _is_image(path)]
    if not found:
        raise ValueError(f'no image matches {entry}; expected files {_known()}')
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _known() -> str:
    return ', '.join(SUFFIXES)
