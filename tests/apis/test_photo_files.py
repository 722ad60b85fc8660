"""Reading photos as they are meant, and writing PNG files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mmext.apis.photo_files import read_photo, write_png

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def gradient() -> Image.Image:
    """3 rows, 5 columns, no two pixels equal."""
    values = np.arange(45, dtype=np.uint8).reshape(3, 5, 3) * 5
    return Image.fromarray(values)


@pytest.mark.parametrize('tag', range(1, 9))
def test_read_photo__is_turned_upright(tmp_path: Path, tag: int):
    image = gradient()
    exif = Image.Exif()
    exif[0x0112] = tag
    image.save(tmp_path / 'a.png', exif=exif)
    stored = np.asarray(image)
    # What must be done to the stored rows and columns, by the EXIF standard.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).transpose(1, 0, 2),
        8: np.rot90(stored),
    }[tag]
    assert np.array_equal(read_photo(tmp_path / 'a.png').pixels, upright)


def test_read_photo__profile_is_kept_and_written(tmp_path: Path):
    gradient().save(tmp_path / 'a.jpg', icc_profile=SRGB)
    photo = read_photo(tmp_path / 'a.jpg')
    assert photo.profile == SRGB
    write_png(tmp_path / 'b.png', photo.pixels, photo.profile)
    write_png(tmp_path / 'grey.png', photo.pixels[..., 0], photo.profile)
    with Image.open(tmp_path / 'b.png') as colour, Image.open(tmp_path / 'grey.png') as grey:
        assert colour.info['icc_profile'] == SRGB
        assert 'icc_profile' not in grey.info


def test_read_photo__a_profile_that_is_not_of_rgb_does_not_stay(tmp_path: Path):
    profile = bytearray(SRGB)
    profile[16:20] = b'GRAY'
    gradient().convert('L').save(tmp_path / 'a.png', icc_profile=bytes(profile))
    assert read_photo(tmp_path / 'a.png').profile is None


def test_read_photo__16_bit_grey_is_scaled(tmp_path: Path):
    values = np.array([[0, 257, 128 * 257], [65535, 300 * 100, 100]], np.uint16)
    Image.fromarray(values).save(tmp_path / 'a.png')
    expected = [[0, 1, 128], [255, 117, 0]]
    pixels = read_photo(tmp_path / 'a.png').pixels
    assert pixels.shape == (2, 3, 3)
    assert pixels[..., 0].tolist() == pixels[..., 2].tolist() == expected


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'CMYK', 'YCbCr'])
def test_read_photo__other_kinds_become_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ('a.jpg' if mode in ('CMYK', 'YCbCr') else 'a.png')
    Image.new('RGB', (8, 8), 'white').convert(mode).save(path)
    photo = read_photo(path)
    assert photo.pixels.shape == (8, 8, 3) and photo.pixels.min() > 250 and photo.alpha is None


def test_read_photo__transparent_images_lie_on_white(tmp_path: Path):
    values = np.zeros((1, 3, 4), np.uint8)
    values[0, :, 3] = 0, 51, 255
    Image.fromarray(values).save(tmp_path / 'a.png')
    photo = read_photo(tmp_path / 'a.png')
    assert photo.pixels[0, :, 0].tolist() == [255, 204, 0]
    np.testing.assert_allclose(photo.alpha, [[0, 0.2, 1]], atol=1e-6)


def test_read_photo__transparent_palettes_too(tmp_path: Path):
    image = Image.new('P', (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / 'a.png', transparency=0)
    photo = read_photo(tmp_path / 'a.png')
    assert photo.alpha.tolist() == [[0, 1]]
    assert photo.pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def damage(path: Path, kind: str) -> None:
    """Write a file of that kind of damage."""
    gradient().resize((64, 64)).save(path, 'PNG' if kind == 'png' else 'JPEG')
    data = path.read_bytes()
    path.write_bytes({'empty': b'', 'text': b'no image'}.get(kind, data[: len(data) // 2]))


@pytest.mark.parametrize('kind', ['empty', 'text', 'jpeg', 'png'])
def test_read_photo__damaged_files_are_named(tmp_path: Path, kind: str):
    damage(tmp_path / 'broken.jpg', kind)
    with pytest.raises(ValueError, match=r'cannot read the image .*broken\.jpg: '):
        read_photo(tmp_path / 'broken.jpg')


def test_read_photo__missing_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match='gone'):
        read_photo(tmp_path / 'gone.png')


@pytest.mark.parametrize('mode', ['F', 'LAB'])
def test_read_photo__refuses_what_is_no_photo(tmp_path: Path, mode: str):
    Image.new(mode, (4, 4)).save(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match=f'got pixels of mode {mode}, expected'):
        read_photo(tmp_path / 'a.tif')


@pytest.mark.parametrize(
    ('shape', 'kind', 'mode'),
    [
        ((4, 5), np.uint8, 'L'),
        ((4, 5), np.uint16, 'I;16'),
        ((4, 5, 3), np.uint8, 'RGB'),
        ((1, 1, 4), np.uint8, 'RGBA'),
    ],
    ids=str,
)
def test_write_png__every_value_comes_back(tmp_path: Path, shape, kind, mode):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape, dtype=kind)
    path = tmp_path / 'new' / 'folder' / 'a.png'
    write_png(path, pixels)
    with Image.open(path) as image:
        assert image.mode == mode
        assert np.array_equal(np.asarray(image), pixels)
    assert [file.name for file in path.parent.iterdir()] == ['a.png']


def test_write_png__nothing_is_left_where_it_fails(tmp_path: Path):
    (tmp_path / 'a.png').mkdir()
    with pytest.raises(OSError, match='a.png'):
        write_png(tmp_path / 'a.png', np.zeros((2, 2), np.uint8))
    assert [file.name for file in tmp_path.iterdir()] == ['a.png']
