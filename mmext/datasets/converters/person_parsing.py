"""Street photos of one person each, with labels of clothes and body parts (251 of Clothing Co-Parsing).

Raw layout: `photos/<name>.jpg` and `labels/<name>.mat`, whose array `groundtruth` has the size of the photo:
0 = background, 1..58 = clothes, skin, hair, bags. The matte is 255 where the label is not 0; its edges are hard.

Split: 200 photos for training and 51 for validation, always the same ones. The photos are put in the order of a hash
of their names: where one is missing, at most one other changes its split. `--fractions` and `--seed` change nothing.
"""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from mmext.datasets.converters.files import image_size
from mmext.datasets.converters.mattes import MatteRecord
from mmext.datasets.converters.planes import encode_png
from mmext.datasets.converters.records import RawDataset
from mmext.datasets.report import Report

KEY = 'groundtruth'
SPLIT_SEED = 5
# 200 of the 251 photos as published.
TRAIN_SHARE = 200 / 251
# What SciPy raises for damaged files, other files, and files of MATLAB 7.3 (HDF5).
UNREADABLE: tuple[type[Exception], ...] = (
    MatReadError,
    ValueError,
    TypeError,
    OSError,
    EOFError,
    KeyError,
    zlib.error,
    NotImplementedError,
    IndexError,
    MemoryError,
)


class PhotoLabels(NamedTuple):
    """One photo and its labels.

    Attributes:
        path: The photo.
        labels: (h, w) whole numbers, 0 = background; not 0 everywhere.
        size: (width, height).
        split: 'train' or 'val'.
    """

    path: Path
    labels: NDArray
    size: tuple[int, int]
    split: str


@dataclass
class PersonParsing:
    """Foreground is every label above 0: the person with all that is worn and carried."""

    def read(self, raw: Path, report: Report) -> RawDataset:
        """See `Converter.read`; the images are `MatteRecord`s with their split."""
        images = [_matte(photo) for photo in read_photos(raw, report)]
        return RawDataset(['person'], list(images))


def read_photos(raw: Path, report: Report) -> Iterator[PhotoLabels]:
    """All photos whose labels can be used, one at a time.

    Raises:
        ValueError: There is no photo.
    """
    paths = sorted((raw / 'photos').glob('*.jpg'))
    if not paths:
        raise ValueError(
            f'No photo matches {raw}/photos/*.jpg. Give the folder that holds photos/ and labels/.'
        )
    stems = {path.stem for path in paths}
    for label_path in sorted((raw / 'labels').glob('*.mat')):
        if label_path.stem not in stems:
            report.problem('missing photo, labels left out', label_path)
    split = split_names([path.stem for path in paths])
    for path in paths:
        labels = _read_labels(raw / 'labels' / f'{path.stem}.mat', report)
        if labels is None:
            continue
        size = image_size(path, report, stated=(labels.shape[1], labels.shape[0]))
        if size is None:
            continue
        if not (labels > 0).any():
            report.problem('labels without a person, photo left out', path)
            continue
        yield PhotoLabels(path, labels, size, split[path.stem])


def _matte(photo: PhotoLabels) -> MatteRecord:
    alpha = encode_png((photo.labels > 0).astype(np.uint8) * 255)
    return MatteRecord(photo.path, photo.path.name, *photo.size, split=photo.split, alpha_png=alpha)


def split_names(names: list[str]) -> dict[str, str]:
    """'train' or 'val' for each name: the first `TRAIN_SHARE` of them by hash are for training."""
    ordered = sorted(names, key=lambda n: hashlib.sha256(f'{SPLIT_SEED} {n}'.encode()).digest())
    num_train = round(TRAIN_SHARE * len(names))
    return {name: 'train' if rank < num_train else 'val' for rank, name in enumerate(ordered)}


def _read_labels(path: Path, report: Report) -> NDArray | None:
    """The labels (h, w); None, with a problem, if there are none."""
    if not path.is_file():
        report.problem('missing labels, photo left out', path)
        return None
    try:
        labels = loadmat(path, variable_names=[KEY]).get(KEY)
    except UNREADABLE as error:
        report.problem(
            'unreadable labels, photo left out', path, f'{type(error).__name__}: {error}'
        )
        return None
    if labels is None or labels.ndim != 2 or labels.dtype.kind not in 'bui' or not labels.size:
        found = 'no such array' if labels is None else f'{labels.shape} {labels.dtype}'
        report.problem(f'no whole numbers (h, w) in {KEY}, photo left out', path, found)
        return None
    return labels
