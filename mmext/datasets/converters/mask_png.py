"""Folders of masks: `images/**` and `masks/**` with PNG files of the same names, or `masks/<class>/**`.

What the values of a mask mean is said by `--values`: `class` (0 = background, N = line N of classes.txt,
255 = not labelled), `binary` (0 = background) or `instance` (0 = background, each other value is one
object). Under `binary` and `instance` the class is the folder below masks/, or the only line of classes.txt.
Objects of `class` and `binary` masks are their 8-connected components; palette images are read by their
indices. Splits: folders named train, val or test below images/. A normal image has a mask of zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmext.datasets.converters.files import (
    SPLIT_NAMES,
    find_images,
    image_size,
    listed_classes,
    split_of,
)
from mmext.datasets.converters.objects import connected_objects, object_from_mask, read_mask
from mmext.datasets.converters.records import ImageRecord, ObjectRecord, RawDataset, count
from mmext.datasets.report import Report
from mmext.structures.label_maps import NOT_LABELLED

BACKGROUND = ('background', '_background_')


@dataclass
class MaskPng:
    """Masks by value or by class folder; see the module text."""

    values: str = field(
        default='class',
        metadata={
            'choices': ('class', 'binary', 'instance'),
            'help': 'what the values of a mask mean (default: class)',
        },
    )
    min_pixels: int = field(
        default=9,
        metadata={'type': count, 'help': 'objects with fewer pixels are left out (default: 9)'},
    )

    def read(self, raw: Path, report: Report) -> RawDataset:
        """See `Converter.read`."""
        paths = find_images(raw / 'images')
        if not paths or not (raw / 'masks').is_dir():
            raise ValueError(
                f'{raw} lacks images/ with images, or masks/. Give the folder that holds both.'
            )
        classes, folders = self._classes(raw)
        masks = {path: _mask_paths(path.relative_to(raw / 'images'), folders) for path in paths}
        used = {mask_path for found in masks.values() for mask_path in found}
        for mask_path in sorted((raw / 'masks').rglob('*.png')):
            if mask_path not in used:
                report.problem('missing image or unknown class folder, mask left out', mask_path)
        images = [self._read_image(path, raw, masks[path], classes, report) for path in paths]
        return RawDataset(classes, [image for image in images if image is not None])

    def _classes(self, raw: Path) -> tuple[list[str], dict[Path, str]]:
        """Class names, and folder of masks -> its class ('' where the values say the class)."""
        masks, listed = raw / 'masks', listed_classes(raw)
        if listed and listed[0].lower() in BACKGROUND:
            listed = listed[1:]  # some lists name value 0, too
        if self.values == 'class':
            if not listed:
                raise ValueError(
                    f'{raw} names no classes. Write classes.txt: line N is the class of value N.'
                )
            return listed, {masks: ''}
        names = sorted(path.name for path in masks.iterdir() if path.is_dir())
        names = [name for name in names if name.lower() not in SPLIT_NAMES]
        if names:
            classes = listed or names
            return classes, {masks / name: name for name in classes}
        if len(listed) != 1:
            raise ValueError(
                f'{raw} has {self.values} masks of an unknown class. Put them into masks/<class>/, or write '
                f'classes.txt with one line (got {len(listed)}).'
            )
        return listed, {masks: listed[0]}

    def _read_image(
        self, path: Path, raw: Path, masks: dict[Path, str], classes: list[str], report: Report
    ) -> ImageRecord | None:
        if not masks:
            report.problem(
                'missing mask, image left out (a normal image has a mask of zeros)', path
            )
            return None
        read = {mask_path: read_mask(mask_path, report) for mask_path in masks}
        arrays = {mask_path: mask for mask_path, mask in read.items() if mask is not None}
        sizes = {(mask.shape[1], mask.shape[0]) for mask in arrays.values()}
        if len(arrays) < len(masks):
            return None
        if len(sizes) > 1:
            report.problem('masks of different sizes, image left out', path, f'{sorted(sizes)}')
            return None
        size = image_size(path, report, stated=sizes.pop())
        if size is None:
            return None
        image = ImageRecord(path, path.relative_to(raw / 'images').as_posix(), *size)
        image.split = split_of(path, raw / 'images')
        for mask_path, mask in arrays.items():
            names = [masks[mask_path]] if masks[mask_path] else classes
            image.objects += self._objects(mask, names, mask_path, report)
        return image

    def _objects(
        self, mask: NDArray, names: list[str], mask_path: Path, report: Report
    ) -> list[ObjectRecord]:
        objects, num_specks = OBJECTS[self.values](mask, names, self.min_pixels, mask_path, report)
        if num_specks:
            detail = f'{num_specks} below {self.min_pixels} pixels'
            report.note('specks in a mask, left out', mask_path, detail)
        return objects


def _mask_paths(relative: Path, folders: dict[Path, str]) -> dict[Path, str]:
    """The masks of an image that exist -> their class, from its path below images/."""
    candidates = {folder / relative.with_suffix('.png'): name for folder, name in folders.items()}
    return {path: name for path, name in candidates.items() if path.is_file()}


def _by_class(
    mask: NDArray, names: list[str], min_pixels: int, mask_path: Path, report: Report
) -> tuple[list[ObjectRecord], int]:
    """The components of each value; objects and the number of specks."""
    objects, num_specks, strange = [], 0, []
    for value in np.unique(mask[(mask != 0) & (mask != NOT_LABELLED)]).tolist():
        if value > len(names):
            strange.append(value)
            continue
        found = connected_objects(mask == value, names[value - 1], min_pixels)
        objects += found.objects
        num_specks += found.num_specks
    if strange:
        report.problem('unknown class, its pixels left out', mask_path, f'values {strange}')
    if NOT_LABELLED > len(names) and (mask == NOT_LABELLED).any():
        report.note('pixels that are not labelled (255), taken as background', mask_path)
    return objects, num_specks


def _binary(
    mask: NDArray, names: list[str], min_pixels: int, mask_path: Path, report: Report
) -> tuple[list[ObjectRecord], int]:
    """The components above half of the highest value, which cuts soft edges and suits 0/1 and 0/255."""
    found = connected_objects(mask > mask.max() / 2, names[0], min_pixels)
    return found.objects, found.num_specks


def _by_instance(
    mask: NDArray, names: list[str], min_pixels: int, mask_path: Path, report: Report
) -> tuple[list[ObjectRecord], int]:
    """One object for each value, be it in one piece or several."""
    values, counts = np.unique(mask[mask != 0], return_counts=True)
    kept = values[counts >= min_pixels]
    return [object_from_mask(mask == value, names[0]) for value in kept], len(values) - len(kept)


OBJECTS: dict[str, Callable[..., tuple[list[ObjectRecord], int]]] = {
    'class': _by_class,
    'binary': _binary,
    'instance': _by_instance,
}
