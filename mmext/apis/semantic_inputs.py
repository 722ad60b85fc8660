"""What may be segmented: files, images of Pillow, arrays of OpenCV."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmext.apis.image_inputs import find_images
from mmext.apis.photo_files import photo_of

Source: TypeAlias = Path | NDArray[np.uint8] | Image.Image
KINDS = (str, Path, np.ndarray, Image.Image)


def find_sources(inputs: Source | str | Iterable[Source | str]) -> Iterator[Source]:
    """Files, images and arrays that are meant, in order.

    Args:
        inputs: one or several of: image file, folder, pattern (see `find_images`), image of Pillow, array. What a list
            has is looked for at once; of a generator an entry is taken when it is asked for.

    Raises:
        ValueError: an input is not there, or of another kind.
    """
    entries = [inputs] if isinstance(inputs, KINDS) else inputs
    found = (source for entry in entries for source in _sources_of(entry))
    return iter(list(found)) if isinstance(entries, Sequence) else found


def read_source(source: Source, load: Callable[[Path], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR of one of `find_sources`.

    Args:
        source: images of Pillow become RGB as files do; arrays are (H, W, 3) uint8 BGR, as cv2.imread gives them.
        load: reads files.

    Raises:
        ValueError: an array or image of another kind; otherwise as `load`.
    """
    if isinstance(source, Path):
        return load(source)
    if isinstance(source, Image.Image):
        return cv2.cvtColor(photo_of(source).pixels, cv2.COLOR_RGB2BGR).astype(np.uint8)
    if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
        raise ValueError(
            f'got an array of shape {source.shape} and type {source.dtype}, expected (H, W, 3) uint8 in BGR; '
            'convert it, for example grey with cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)'
        )
    return source


def _sources_of(entry: Source | str) -> list[Source]:
    if not isinstance(entry, KINDS):
        raise ValueError(
            f'got an input of type {type(entry).__name__}, expected a path, an image of Pillow or a BGR array'
        )
    return [*find_images(entry)] if isinstance(entry, (str, Path)) else [entry]
