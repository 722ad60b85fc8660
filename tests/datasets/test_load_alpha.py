"""LoadAlpha, AlphaToSegMap, PackMatteInputs: every kind of file ends as the matte it means, or in an error that names it."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mmext.datasets.transforms import (
    AlphaResize,
    AlphaToSegMap,
    LoadAlpha,
    LoadImage,
    PackMatteInputs,
)

GREY = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
GREY[0, :2] = (0, 255)
BITS = (GREY > 127).astype(np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def _save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    Image.fromarray(pixels, mode).save(path)


def _palette(indices: np.ndarray, colours: list[int], **options: object) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        image = Image.fromarray(indices, 'P')
        image.putpalette(colours + [7] * (768 - len(colours)))
        image.save(path, **options)

    return save


def _sample(folder: Path, alpha: Path, size: tuple[int, int] = (40, 30), **exif: int) -> dict:
    """A photo of (w, h) and the matte."""
    photo = folder / 'photo.png'
    tags = Image.Exif()
    tags[0x0112] = exif.get('orientation', 1)
    Image.new('RGB', size, (9, 8, 7)).save(photo, exif=tags)
    return LoadImage().transform({'img_path': str(photo), 'alpha_path': str(alpha)})


def _load(folder: Path, save: Callable[[Path], object], name: str = 'a.png') -> np.ndarray:
    save(folder / name)
    results = LoadAlpha().transform(_sample(folder, folder / name))
    assert results['alpha_fields'] == ['gt_alpha']
    alpha = results['gt_alpha']
    assert alpha.dtype == np.float32 and alpha.flags['C_CONTIGUOUS']
    return alpha


RAMP = [value for level in range(256) for value in (level,) * 3]
OPAQUE = np.full_like(GREY, 255)
MEANINGS = {
    'grey of 8 bits': (lambda p: _save(p, GREY), GREY / 255),
    'grey of 16 bits': (
        lambda p: cv2.imwrite(str(p), GREY.astype(np.uint16) * 256 + 3),
        (GREY * 256.0 + 3) / 65535,
    ),
    '0 and 1 in 8 bits': (lambda p: _save(p, BITS), BITS),
    '0 and 1 in 16 bits': (lambda p: cv2.imwrite(str(p), BITS.astype(np.uint16)), BITS),
    'one bit': (lambda p: Image.fromarray(BITS.astype(bool)).save(p), BITS),
    'all 0': (lambda p: _save(p, 0 * BITS), 0 * BITS),
    'grey saved as colour': (lambda p: _save(p, np.dstack([GREY] * 3)), GREY / 255),
    'RGBA': (lambda p: _save(p, np.dstack([RGB, GREY])), GREY / 255),
    'grey with alpha': (lambda p: _save(p, np.dstack([BITS * 9, GREY]), 'LA'), GREY / 255),
    'opaque RGBA of a grey mask': (
        lambda p: _save(p, np.dstack([GREY] * 3 + [OPAQUE])),
        GREY / 255,
    ),
    'RGBA of 16 bits': (
        lambda p: cv2.imwrite(str(p), np.dstack([RGB, GREY]).astype(np.uint16) * 257),
        GREY / 255,
    ),
    'palette of greys': (_palette(GREY, RAMP), GREY / 255),
    'palette, 0 and 1 in colours': (_palette(BITS, [0, 0, 0, 128, 0, 0]), BITS),
    'palette, indices swapped': (_palette(1 - BITS, [255, 255, 255, 0, 0, 0]), BITS),
    'palette with transparency': (
        _palette(BITS, [1, 2, 3, 200, 9, 9], transparency=bytes([0, 255])),
        BITS,
    ),
}


@pytest.mark.parametrize('meaning', MEANINGS)
def test_values__mean_what_the_table_says(meaning: str, tmp_path: Path) -> None:
    save, expected = MEANINGS[meaning]
    np.testing.assert_allclose(_load(tmp_path, save), expected, rtol=1e-6, atol=0)


def test_values__reach_0_and_1_exactly_and_jpeg_nearly(tmp_path: Path) -> None:
    alpha = _load(tmp_path, lambda p: _save(p, GREY))
    assert (alpha.min(), alpha.max()) == (0, 1)
    smooth = cv2.GaussianBlur(GREY, (0, 0), 4)
    from_jpeg = _load(tmp_path, lambda p: Image.fromarray(smooth).save(p, quality=95), 'b.jpg')
    assert np.abs(from_jpeg - smooth / 255).max() < 0.03


ERRORS = {
    'colour': (lambda p: _save(p, RGB), 'colour image'),
    'labels': (lambda p: _save(p, GREY // 5), 'no value above 51'),
    '8 bits in 16': (lambda p: cv2.imwrite(str(p), GREY.astype(np.uint16)), 'no value above 255'),
    'palette of classes': (_palette(GREY // 50, list(range(18))), 'indices up to 5'),
    'missing': (lambda p: None, 'does not exist'),
    'empty': (lambda p: p.write_bytes(b''), '0 bytes'),
    'text': (lambda p: p.write_text('alpha'), 'cannot be decoded'),
    'truncated': (
        lambda p: p.write_bytes(cv2.imencode('.png', GREY)[1].tobytes()[:-200]),
        'truncated or damaged',
    ),
    'other size': (lambda p: _save(p, GREY[:20]), '40 x 20 pixels'),
    'turned without a tag': (lambda p: _save(p, GREY.T.copy()), '30 x 40 pixels'),
}


@pytest.mark.parametrize('case', ERRORS)
def test_errors__name_the_file(case: str, tmp_path: Path) -> None:
    save, text = ERRORS[case]
    with pytest.raises(ValueError, match=text) as error:
        _load(tmp_path, save)
    assert str(tmp_path / 'a.png') in str(error.value)
    if 'pixels' in text:
        assert 'photo.png has 40 x 30' in str(error.value)


def test_errors__float_values_and_a_sample_without_matte(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='float32, expected 8 or 16 bits'):
        _load(tmp_path, lambda p: cv2.imwrite(str(p), GREY.astype(np.float32)), 'a.tiff')
    with pytest.raises(ValueError, match='names no alpha_path'):
        LoadAlpha().transform({'img_path': 'x.jpg', 'ori_shape': (3, 4)})


@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
@pytest.mark.parametrize('frame', ['stored', 'upright', 'own tag'])
def test_exif__matte_lies_on_the_upright_image(
    frame: str, orientation: int, tmp_path: Path
) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / 'tagged.png', exif=tags)
    with Image.open(tmp_path / 'tagged.png') as tagged:
        upright = np.asarray(ImageOps.exif_transpose(tagged))
    saved = {'stored': GREY, 'upright': upright, 'own tag': GREY}[frame]
    Image.fromarray(saved).save(tmp_path / 'a.png', exif=tags if frame == 'own tag' else None)
    sample = _sample(tmp_path, tmp_path / 'a.png', orientation=orientation)
    assert sample['img'].shape[:2] == (40, 30)
    np.testing.assert_allclose(LoadAlpha().transform(sample)['gt_alpha'], upright / 255, rtol=1e-6)


def test_foreground__is_loaded_and_must_fit(tmp_path: Path) -> None:
    _save(tmp_path / 'a.png', GREY)
    _save(tmp_path / 'f.png', RGB)
    sample = _sample(tmp_path, tmp_path / 'a.png') | {'foreground_path': str(tmp_path / 'f.png')}
    foreground = LoadAlpha().transform(sample)['foreground']
    np.testing.assert_array_equal(foreground, RGB[..., ::-1])
    _save(tmp_path / 'f.png', RGB[1:])
    with pytest.raises(ValueError, match='foreground file .*f.png has 40 x 29 pixels'):
        LoadAlpha().transform(_sample(tmp_path, tmp_path / 'a.png') | sample)


def test_packing__training_and_validation(tmp_path: Path) -> None:
    _save(tmp_path / 'a.png', GREY)
    sample = AlphaResize((20, 20)).transform(_sample(tmp_path, tmp_path / 'a.png'))
    packed = PackMatteInputs().transform(LoadAlpha().transform(sample))
    data = packed['data_samples']
    assert packed['inputs'].shape == (3, 15, 20) and packed['inputs'].dtype == torch.uint8
    assert packed['inputs'][:, 0, 0].tolist() == [7, 8, 9]  # BGR
    assert data.gt_alpha.data.shape == (1, 30, 40) and data.gt_alpha.data.dtype == torch.float32
    assert (data.ori_shape, data.img_shape, data.scale_factor) == ((30, 40), (15, 20), (0.5, 0.5))
    assert data.img_path.endswith('photo.png') and 'gt_valid' not in data
    sample['gt_valid'] = sample['gt_alpha'] > 0.2
    data = PackMatteInputs().transform(AlphaToSegMap().transform(sample))['data_samples']
    assert data.gt_valid.data.dtype == torch.bool
    expected = np.where(GREY > 51, GREY > 127, 255)
    np.testing.assert_array_equal(data.gt_sem_seg.data[0].numpy(), expected)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ({'img': np.zeros((5, 6, 3), np.float32)}, 'float32; expected'),
        ({'gt_alpha': np.zeros((5, 7), np.float32)}, r'gt_alpha of shape \(5, 7\)'),
        ({'gt_alpha': np.zeros((5, 6))}, 'type float64'),
        ({'gt_valid': np.ones((5, 6), np.uint8)}, 'gt_valid of shape'),
    ],
    ids=['float image', 'size', 'double', 'valid of bytes'],
)
def test_packing__refuses(change: dict, text: str) -> None:
    sample = {'img': np.zeros((5, 6, 3), np.uint8), 'ori_shape': (5, 6), 'img_path': 'x.png'}
    with pytest.raises(ValueError, match=text):
        PackMatteInputs().transform(sample | change)
