"""Street photos of one person each, the 59 labels of Clothing Co-Parsing merged to six classes.

Raw layout and split are those of person_parsing.py; `label_list.mat` names the labels. What each becomes is said by
`MERGED`, by name: everything worn that is neither a shoe nor carried is clothes, also hats, glasses, jewellery, belts and
watches, which cover too few pixels for a class of their own, and are no more skin than a scarf is. Tights and stockings are
clothes, purses and wallets bags.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from mmext.datasets.converters.label_maps import LabelRecord, label_record
from mmext.datasets.converters.person_parsing import UNREADABLE, PhotoLabels, read_photos
from mmext.datasets.converters.records import ImageRecord, RawDataset
from mmext.datasets.report import Report
from mmext.structures.label_maps import NOT_LABELLED

LABEL_LIST = 'label_list.mat'
# Class -> names of labels in the file, in the order of the values. `null` is the background.
MERGED = {
    'background': ('null',),
    'skin': ('skin',),
    'hair': ('hair',),
    'shoes': tuple('boots clogs flats heels loafers pumps sandals shoes sneakers wedges'.split()),
    'clothes': tuple(
        'accessories belt blazer blouse bodysuit bra bracelet cape cardigan coat dress earrings glasses gloves hat hoodie '
        'intimate jacket jeans jumper leggings necklace panties pants ring romper scarf shirt shorts skirt socks stockings '
        'suit sunglasses sweater sweatshirt swimwear t-shirt tie tights top vest watch'.split()
    ),
    'bag': ('bag', 'purse', 'wallet'),
}


@dataclass
class PersonClasses:
    """Six classes: background, skin, hair, shoes, clothes, bag."""

    def read(self, raw: Path, report: Report) -> RawDataset:
        """See `Converter.read`; the images are `LabelRecord`s with their split."""
        photos = read_photos(raw, report)
        table = merging_table(read_label_names(raw / LABEL_LIST))
        images = [_merge(photo, table, report) for photo in photos]
        return RawDataset(list(MERGED), list(images))


def read_label_names(path: Path) -> list[str]:
    """The name of each label, as the data set's file lists them.

    Raises:
        ValueError: The file is missing or unreadable.
    """
    if not path.is_file():
        raise ValueError(
            f'{path} is missing: it names the labels. Copy it from the published data set.'
        )
    try:
        names = loadmat(path)['label_list'].ravel()
        return [str(np.squeeze(name)) for name in names]
    except UNREADABLE as error:
        raise ValueError(
            f'{path} cannot be read ({type(error).__name__}: {error}), expected a MATLAB file with label_list. Copy it again.'
        ) from error


def merging_table(names: list[str]) -> NDArray[np.uint8]:
    """Value in the files -> value of the merged class, (256,); `NOT_LABELLED` beyond the names.

    Args:
        names: Of the labels 0, 1, ... in the files.

    Raises:
        ValueError: A name has no class, or is there twice.
    """
    values = {name: value for value, group in enumerate(MERGED.values()) for name in group}
    unknown = [name for name in names if name not in values]
    if unknown or len(set(names)) < len(names) or not names:
        raise ValueError(
            f'{LABEL_LIST} has {len(names)} names, without a class are {unknown}; expected different ones of the {len(values)} '
            'of Clothing Co-Parsing. Add new ones to MERGED in person_classes.py.'
        )
    table = np.full(256, NOT_LABELLED, np.uint8)
    table[: len(names)] = [values[name] for name in names]
    return table


def _merge(photo: PhotoLabels, table: NDArray[np.uint8], report: Report) -> LabelRecord:
    labels = photo.labels
    inside = (labels >= 0) & (labels < len(table))
    merged = np.where(inside, table[np.where(inside, labels, 0)], NOT_LABELLED).astype(np.uint8)
    strange = np.unique(labels[merged == NOT_LABELLED]).tolist()
    if strange:
        report.problem(
            f'unknown labels, their pixels not labelled ({NOT_LABELLED})', photo.path, f'{strange}'
        )
    image = ImageRecord(photo.path, photo.path.name, *photo.size, split=photo.split)
    return label_record(image, merged)
