"""What the values of a matte's file mean.

| file | alpha |
|---|---|
| grey, 8 or 16 bits | value / 255 or / 65535 |
| grey, highest value 1 | a mask of 0 and 1, as it is |
| grey, highest value below a quarter of the range | an error: a label map, or 8-bit values in a 16-bit file |
| colour, all channels equal | as grey; with different channels an error |
| RGBA, grey with alpha | the alpha channel; of an opaque file with equal channels, these |
| palette | the grey or the alpha values of the palette; with other colours, the indices, if they are 0 and 1 |
"""

import io

import cv2
import numpy as np
from mmengine.fileio import get
from numpy.typing import NDArray
from PIL import Image

from mmext.datasets.image_files import damage
from mmext.datasets.transforms.loading import UPRIGHT

# Highest alpha of a file that is no matte: none of a person, a product or even smoke stays below it.
MIN_PEAK = 0.25
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
PNG_COLOUR_TYPE, PNG_PALETTE = 25, 3


def read_bytes(path: str, backend_args: dict | None = None) -> bytes:
    """All bytes of a file, through mmengine's file backend.

    Raises:
        ValueError: The file is missing or empty.
    """
    try:
        data = get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise ValueError(
            f'The file {path} does not exist. Check `data_root` and `data_prefix` of the dataset.'
        ) from error
    if not data:
        raise ValueError(f'The file {path} is empty (0 bytes). Copy it again.')
    return data


def decode_alpha(data: bytes, path: str) -> NDArray[np.float32]:
    """The matte of a file, by the table of the module text.

    Args:
        data: All bytes of the file.
        path: For messages.

    Returns:
        (h, w) float32 in [0, 1], as stored: an EXIF tag is not applied.

    Raises:
        ValueError: The file is damaged, or no matte.
    """
    problem = damage(data)
    if problem:
        raise ValueError(
            f'The alpha file {path} is truncated or damaged ({problem}). Copy it again.'
        )
    pixels: NDArray | None
    if data.startswith(PNG_SIGNATURE) and data[PNG_COLOUR_TYPE] == PNG_PALETTE:
        pixels = _decode_palette(data, path)
    else:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(
            f'The alpha file {path} cannot be decoded ({len(data)} bytes, starting with {data[:8]!r}): it is '
            'damaged or no image. Copy it again, or save it as PNG.'
        )
    return _to_unit(_one_channel(pixels, path), path)


def turned(plane: NDArray, exif_orientation: int) -> NDArray:
    """A plane (h, w) turned upright by an EXIF orientation; unknown ones change nothing."""
    if exif_orientation not in UPRIGHT:
        return plane
    transpose, flip_rows, flip_columns = UPRIGHT[exif_orientation]
    plane = plane.T if transpose else plane
    return np.ascontiguousarray(plane[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _decode_palette(data: bytes, path: str) -> NDArray:
    """Indices (h, w), grey values (h, w) or BGRA (h, w, 4) of a palette PNG, whichever is the matte."""
    with Image.open(io.BytesIO(data)) as image:
        indices = np.asarray(image)
        if 'transparency' in image.info:
            return np.asarray(image.convert('RGBA'))
        colours = np.asarray(image.convert('RGB'))
    if (colours == colours[..., :1]).all():
        return np.ascontiguousarray(colours[..., 0])
    if indices.max() > 1:
        raise ValueError(
            f'The alpha file {path} is a palette image with colours and the indices up to {indices.max()}: a map of '
            'several classes, or a picture. Save the matte as grey PNG: 0 = background, 255 = foreground.'
        )
    return indices


def _one_channel(pixels: NDArray, path: str) -> NDArray:
    """The channel (h, w) that holds the matte."""
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., :3]
    is_grey = (colours == colours[..., :1]).all()
    if pixels.shape[2] == 4:
        opaque = (pixels[..., 3] == np.iinfo(pixels.dtype).max).all()
        # Painting programs save a grey mask with an alpha channel that says nothing.
        return pixels[..., 0] if opaque and is_grey else pixels[..., 3]
    if not is_grey:
        raise ValueError(
            f'The alpha file {path} is a colour image, expected one channel (grey), or the alpha channel of RGBA. Is it '
            'the photo instead of its mask? Save the matte as grey PNG: 0 = background, 255 = foreground.'
        )
    return pixels[..., 0]


def _to_unit(values: NDArray, path: str) -> NDArray[np.float32]:
    """Integers (h, w) of 8 or 16 bits, or 0 and 1, as float32 in [0, 1]."""
    if values.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f'The alpha file {path} has values of type {values.dtype}, expected 8 or 16 bits. Save it as PNG.'
        )
    highest, full = int(values.max()), np.iinfo(values.dtype).max
    if highest <= 1:
        return values.astype(np.float32)
    if highest < MIN_PEAK * full:
        raise ValueError(
            f'The alpha file {path} has no value above {highest}, where {full} is fully foreground. That is a map of '
            'labels, or one of fewer bits. Save it with 0 = background and 255 = foreground (8 bits) or 65535 (16 bits).'
        )
    return np.divide(values, np.float32(full), dtype=np.float32)
