"""What the bytes of an image file say before it is decoded: whether it is whole, and which way is up."""

import io

from PIL import Image, UnidentifiedImageError

from mmext.structures.orientation import ORIENTATION_TAG

# JPEG and PNG files that end so are complete.
ENDS = ((b'\xff\xd8', b'\xff\xd9'), (b'\x89PNG', b'IEND\xaeB`\x82'))
# Names of Pillow's errors about damaged files, beside `UnidentifiedImageError` (an OSError) for strange ones.
DAMAGED = (OSError, SyntaxError, ValueError)


def damage(data: bytes) -> str:
    """What is wrong with an image file, '' if it is complete or of a format that Pillow does not know.

    OpenCV fills the missing part of a truncated JPEG with grey and returns it as if nothing were wrong. JPEG and
    PNG files are recognised as complete by their last bytes; all others are decoded by Pillow.

    Args:
        data: All bytes of the file.
    """
    if any(data.startswith(start) and data.endswith(end) for start, end in ENDS):
        return ''
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError:
        return ''
    except DAMAGED as error:
        return str(error)
    return ''


def orientation(data: bytes) -> int:
    """The EXIF orientation of an image file, 1..8; 1 (as stored) where there is none."""
    if b'Exif' not in data and b'eXIf' not in data and b'EXIF' not in data:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(ORIENTATION_TAG, 1)
    except DAMAGED:
        return 1
