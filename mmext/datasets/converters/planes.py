"""What data sets with one plane an image share, mattes and maps of classes: PNG files, and one list a split."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mmext.datasets.converters.splits import SPLITS


def encode_png(plane: NDArray[np.uint8]) -> bytes:
    """The grey PNG file of a plane (h, w). Small enough to keep those of a whole data set."""
    return cv2.imencode('.png', plane)[1].tobytes()


def write_split_lists(out: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Write `OUT/{train,val,test}.txt`, one name a line in their order; lists of an earlier conversion go.

    Args:
        out: The folder.
        names: Split -> names of its images.
    """
    for split in SPLITS:
        (out / f'{split}.txt').unlink(missing_ok=True)
        if split in names:
            text = ''.join(f'{name}\n' for name in sorted(names[split]))
            (out / f'{split}.txt').write_text(text, encoding='utf-8')
