"""LoadImage: every kind of file ends as 8-bit BGR in the frame of its annotation, or in an error that names it."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import DefaultScope
from PIL import Image, ImageOps

from mmext.datasets import LoadImage
from mmext.registry import TRANSFORMS

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)  # RGB


def _load(path: Path, **size: int) -> np.ndarray:
    results = LoadImage().transform({'img_path': str(path)} | size)
    assert results['img_shape'] == results['ori_shape'] == results['img'].shape[:2]
    assert results['img'].dtype == np.uint8 and results['img'].flags['C_CONTIGUOUS']
    return results['img']


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'bmp', 'webp', 'tiff'])
def test_colour__equals_mmcv(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(PIXELS).save(path)
    expected = LoadImageFromFile().transform({'img_path': str(path)})
    results = LoadImage().transform({'img_path': str(path), 'height': 30, 'width': 40})
    np.testing.assert_array_equal(results['img'], expected['img'])
    assert results['img_shape'] == results['ori_shape'] == (30, 40)


@pytest.mark.parametrize('mode', ['L', '1', 'P', 'LA', 'RGBA', 'CMYK'])
def test_other_modes__become_three_channels(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
    image.save(path)
    with Image.open(path) as saved:
        expected = np.asarray(saved.convert('RGB'))[..., ::-1].astype(int)
    tolerance = 3 if mode == 'CMYK' else 0  # the two libraries round differently
    assert np.abs(_load(path) - expected).max() <= tolerance


def test_alpha__is_dropped_and_colours_below_it_show(tmp_path: Path) -> None:
    alpha = np.zeros((30, 40, 1), np.uint8)
    Image.fromarray(np.concatenate([PIXELS, alpha], 2), 'RGBA').save(tmp_path / 'a.png')
    np.testing.assert_array_equal(_load(tmp_path / 'a.png'), PIXELS[..., ::-1])


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_16_bits__full_range_to_full_range(channels: int, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 30 * 40 * channels).round().astype(np.uint16)
    values = values.reshape(30, 40, channels).squeeze()
    cv2.imwrite(str(tmp_path / 'a.png'), values)
    expected = np.round(values / 257)
    expected = np.repeat(expected[..., None], 3, 2) if channels == 1 else expected[..., :3]
    image = _load(tmp_path / 'a.png')
    assert np.abs(image - expected).max() <= 1e-6
    assert (image.min(), image.max()) == (0, 255)


def test_float__is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / 'a.tiff')
    with pytest.raises(
        ValueError, match='a.tiff has values of type float32, expected 8 or 16 bits'
    ):
        _load(tmp_path / 'a.tiff')


def _save_turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)


def _upright(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))[..., ::-1]


@pytest.mark.parametrize('suffix', ['png', 'webp', 'tiff'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif__upright_without_annotation(orientation: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'a.{suffix}'
    _save_turned(path, orientation)
    expected = _upright(path)
    image = _load(path)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= (4 if suffix == 'webp' else 0)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif__jpeg_equals_opencv(orientation: int, tmp_path: Path) -> None:
    _save_turned(tmp_path / 'a.jpg', orientation)
    expected = cv2.imread(str(tmp_path / 'a.jpg'), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(_load(tmp_path / 'a.jpg'), expected)


def test_exif__frame_is_that_of_the_annotation(tmp_path: Path) -> None:
    path = tmp_path / 'a.png'
    _save_turned(path, 6)
    np.testing.assert_array_equal(_load(path, height=40, width=30), _upright(path))
    np.testing.assert_array_equal(_load(path, height=30, width=40), PIXELS[..., ::-1])


def test_exif__half_turn_is_applied_where_sizes_cannot_tell(tmp_path: Path) -> None:
    _save_turned(tmp_path / 'a.png', 3)
    image = _load(tmp_path / 'a.png', height=30, width=40)
    np.testing.assert_array_equal(image, PIXELS[::-1, ::-1, ::-1])


@pytest.mark.parametrize('orientation', [1, 6])
def test_size__of_another_image_is_refused(orientation: int, tmp_path: Path) -> None:
    _save_turned(tmp_path / 'a.jpg', orientation)
    with pytest.raises(ValueError, match='a.jpg has 40 x 30 pixels, its annotation says 80 x 60'):
        _load(tmp_path / 'a.jpg', height=60, width=80)


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'bmp', 'webp', 'tiff'])
@pytest.mark.parametrize('share', [0.99, 0.5, 0.05])
def test_truncated__error_names_the_file(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r'a\.\w+ (is truncated or damaged|cannot be decoded)'):
        _load(path)


def test_truncated__opencv_alone_would_not_notice(tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    assert cv2.imread(str(path)) is not None
    with pytest.raises(ValueError, match='a.jpg is truncated'):
        _load(path)


def test_jpeg_with_bytes_behind_its_end__is_complete(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, 'JPEG')
    (tmp_path / 'a.jpg').write_bytes(stream.getvalue())
    (tmp_path / 'b.jpg').write_bytes(stream.getvalue() + b'camera data')
    np.testing.assert_array_equal(_load(tmp_path / 'a.jpg'), _load(tmp_path / 'b.jpg'))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'a.jpg does not exist. Check `data_root`'),
        (b'', r'a.jpg is empty \(0 bytes\)'),
        (
            b'<html>not found</html>',
            r"a.jpg cannot be decoded \(22 bytes, starting with b'<html>no'\)",
        ),
    ],
    ids=['missing', 'empty', 'no image'],
)
def test_no_image__error_names_the_file(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / 'a.jpg').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        _load(tmp_path / 'a.jpg')


def test_registry__built_by_name() -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert isinstance(TRANSFORMS.build({'type': 'mmext.LoadImage'}), LoadImage)
