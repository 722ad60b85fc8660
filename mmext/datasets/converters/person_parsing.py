"""Street photos of one person each, with labels of clothes and body parts (251 of Clothing Co-Parsing).

Raw layout: `photos/<name>.jpg` and `labels/<name>.mat`, whose array `groundtruth` has the size of the photo:
0 = background, 1..58 = clothes, skin, hair, bags. The matte is 255 where the label is not 0; its edges are hard.

Split: 200 photos for training and 51 for validation, always the same ones. The photos are put in the order of a hash
of their names: where one is missing, at most one other changes its split. `--fractions` and `--seed` change nothing.
"""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from mmext.datasets.converters.files import image_size
from mmext.datasets.converters.mattes import MatteRecord, encode_alpha
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


@dataclass
class PersonParsing:
    """Foreground is every label above 0: the person with all that is worn and carried."""

    def read(self, raw: Path, report: Report) -> RawDataset:
        """See `Converter.read`; the images are `MatteRecord`s with their split."""
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
        records = [self._read_photo(path, split[path.stem], report) for path in paths]
        images = [record for record in records if record is not None]
        return RawDataset(['person'], list(images))

    def _read_photo(self, path: Path, split: str, report: Report) -> MatteRecord | None:
        labels = _read_labels(path.parents[1] / 'labels' / f'{path.stem}.mat', report)
        if labels is None:
            return None
        size = image_size(path, report, stated=(labels.shape[1], labels.shape[0]))
        if size is None:
            return None
        person = labels > 0
        if not person.any():
            report.problem('labels without a person, photo left out', path)
            return None
        alpha = encode_alpha(person.astype(np.uint8) * 255)
        return MatteRecord(path, path.name, *size, split=split, alpha_png=alpha)


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
