"""Photos as Pillow reads them: upright, with their colour profile and their transparency; PNG files out.

OpenCV, which the training pipelines read with, drops colour profiles and turns transparency into whatever lies below.
"""

import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

# What Pillow raises for files that it cannot read.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# 16 bits are read as 8: modes of Pillow with one such channel.
DEEP_GREY = ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N')
# Compression beyond this costs several times the time for a few per cent.
PNG_LEVEL = 3


class Photo(NamedTuple):
    """An image file, ready to look at.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright; a transparent image lies on white.
        alpha: (H, W) float32 in [0, 1], of a transparent image; else None.
        profile: the ICC profile that `pixels` are meant in; None for sRGB.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.float32] | None = None
    profile: bytes | None = None


def read_photo(path: str | Path) -> Photo:
    """Read an image: turned as its EXIF orientation says, grey and palettes as RGB, CMYK through its profile.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, too large for Pillow's guard, or of a kind that is no photo.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return photo_of(image)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f'cannot read the image {path}: no format that Pillow knows') from error
    except UNREADABLE as error:
        raise ValueError(f'cannot read the image {path}: {error}') from error


def write_png(
    path: str | Path, pixels: NDArray, profile: bytes | None = None, level: int = PNG_LEVEL
) -> None:
    """Write a PNG file; it appears under its name when it is complete.

    Args:
        path: ending in .png; its folder is made.
        pixels: (H, W) uint8 or uint16 grey, (H, W, 3) RGB or (H, W, 4) straight RGBA uint8.
        profile: ICC profile of colours; grey pictures are alphas and have none.
        level: of compression, 0 to 9.

    Raises:
        OSError: the file cannot be written.
    """
    save_png(path, Image.fromarray(pixels), profile if pixels.ndim == 3 else None, level)


def save_png(
    path: str | Path, image: Image.Image, profile: bytes | None = None, level: int = PNG_LEVEL
) -> None:
    """Write an image of Pillow as a PNG file; as `write_png`, which says what the arguments are.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    try:
        image.save(part, 'PNG', compress_level=level, icc_profile=profile)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def photo_of(image: Image.Image) -> Photo:
    """An image of Pillow as `read_photo` gives that of a file.

    Raises:
        ValueError: of a kind that is no photo.
    """
    image = ImageOps.exif_transpose(image)
    profile = image.info.get('icc_profile')
    if image.mode in DEEP_GREY:
        # Pillow's own conversion cuts everything above 255.
        grey = (np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)
        return Photo(np.repeat(grey[..., None], 3, axis=2))
    if image.mode in ('F', 'LAB', 'HSV'):
        raise ValueError(f'got pixels of mode {image.mode}, expected grey, RGB, palette or CMYK')
    if image.mode == 'CMYK' and profile:
        image = _to_srgb(image, profile)
    # A profile of grey or CMYK does not fit the RGB that is made of it.
    profile = profile if profile and profile[16:20] == b'RGB ' else None
    if image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or 'transparency' in image.info:
        return _on_white(image.convert('RGBA'), profile)
    return Photo(np.asarray(image.convert('RGB')), None, profile)


def _on_white(image: Image.Image, profile: bytes | None) -> Photo:
    white = Image.new('RGBA', image.size, 'white')
    alpha = np.asarray(image.getchannel('A'), np.float32) / np.float32(255)
    pixels = np.asarray(Image.alpha_composite(white, image).convert('RGB'))
    return Photo(pixels, alpha, profile)


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile('sRGB'), outputMode='RGB'
        )
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f'its colour profile cannot be used: {error}') from error
    assert found is not None  # only an image that is changed in place gives None
    return found
