"""Read an image from disk as 8-bit BGR in the frame of its annotation, or say what is wrong with the file."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.fileio import get
from numpy.typing import NDArray

from mmext.datasets.image_files import damage, orientation
from mmext.registry import TRANSFORMS

# How an image as stored becomes upright, by EXIF orientation: transpose, then flip rows, then flip columns.
UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Load `img_path` as uint8 (H, W, 3) BGR.

    - Grey images get three equal channels.
    - Alpha is dropped, as `cv2.IMREAD_COLOR` does: the colours below transparent pixels show.
    - 16-bit images are scaled from 0..65535 to 0..255. Data of fewer bits in a 16-bit file come out dark:
      stretch them once, when the data set is made.
    - The EXIF orientation is applied, as annotation tools do. If only the image as stored has the `height`
      and `width` of the annotation, the boxes were made on that and it stays unturned.

    Required keys: `img_path`; `height` and `width` in pixels where there is an annotation.
    Added keys: `img`, `img_shape` and `ori_shape` (h, w).

    Decoded images are not kept: reading and decoding the 936 training photos of magnetic tiles takes 0.6 ms
    each, half a second an epoch, and mmcv's LoadImageFromFile takes the same.

    Args:
        backend_args: Of mmengine's file backend; None for local files.

    Raises:
        ValueError: The file is missing, empty, truncated, no image or of floating point values, or its size
            is not that of the annotation. Every message names the file.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """See the class."""
        path = results['img_path']
        data = self._read(path)
        image = _to_bgr8(_decode(data, path), path)
        expected = (results['height'], results['width']) if 'height' in results else None
        image = _in_frame(image, orientation(data), expected, path)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _read(self, path: str) -> bytes:
        try:
            data = get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise ValueError(
                f'The image {path} does not exist. Check `data_root` and `data_prefix` of the dataset.'
            ) from error
        if not data:
            raise ValueError(f'The image {path} is empty (0 bytes). Copy it again.')
        return data

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


def _decode(data: bytes, path: str) -> NDArray:
    """The pixels as stored: any channels, any depth, not turned."""
    problem = damage(data)
    if problem:
        raise ValueError(
            f'The image {path} is truncated or damaged ({problem}). Copy it again, or take it out of the '
            'annotation file.'
        )
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(
            f'The image {path} cannot be decoded ({len(data)} bytes, starting with {data[:8]!r}): it is '
            'damaged or no image. Copy it again, or take it out of the annotation file.'
        )
    return image


def _to_bgr8(image: NDArray, path: str) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) BGR from grey, BGR or BGRA of 8 or 16 bits."""
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / 65535)
    if image.dtype != np.uint8:
        raise ValueError(
            f'The image {path} has values of type {image.dtype}, expected 8 or 16 bits. Convert it, for '
            'example with ImageMagick: convert IN -depth 8 OUT.png'
        )
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    elif image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    return np.asarray(image, np.uint8)


def _in_frame(
    image: NDArray[np.uint8], exif_orientation: int, expected: tuple[int, int] | None, path: str
) -> NDArray[np.uint8]:
    """The image upright, or as stored if only that has the expected (h, w)."""
    upright = _upright(image, exif_orientation)
    if expected is None or upright.shape[:2] == expected:
        return upright
    if image.shape[:2] == expected:
        return image
    raise ValueError(
        f'The image {path} has {image.shape[1]} x {image.shape[0]} pixels, its annotation says {expected[1]} x '
        f'{expected[0]} (width x height): boxes and masks would not fit. Use the images that were annotated.'
    )


def _upright(image: NDArray[np.uint8], exif_orientation: int) -> NDArray[np.uint8]:
    if exif_orientation not in UPRIGHT:
        return image
    transpose, flip_rows, flip_columns = UPRIGHT[exif_orientation]
    if transpose:
        image = image.transpose(1, 0, 2)
    image = image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    return np.ascontiguousarray(image)
