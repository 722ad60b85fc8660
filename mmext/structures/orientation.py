"""Which way is up in a photo, by the tag that cameras write."""

from PIL import Image

# Of EXIF: from 5 to 8 the picture lies on its side.
ORIENTATION_TAG = 0x0112


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an opened image as it is seen, after the turn of its EXIF tag; only its header is read."""
    is_turned = image.getexif().get(ORIENTATION_TAG, 1) >= 5
    return image.size[::-1] if is_turned else image.size
