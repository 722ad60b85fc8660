"""Presets of preprocessing against transformers' processor and mmseg's test pipeline."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from mmseg.models import SegDataPreProcessor
from mmseg.registry import TRANSFORMS
from PIL import Image
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mmext.apis.semantic_presets import find_preset

MMSEG_STEPS = {
    'mmseg': [dict(type='Resize', scale=(2048, 512), keep_ratio=True)],
    'nvlabs': [
        dict(type='Resize', scale=(2048, 512), keep_ratio=True),
        dict(type='ResizeToMultiple', size_divisor=32),
    ],
}


def textured(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 with coarse and fine detail."""
    rng = np.random.default_rng(height * width)
    coarse = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (width, height))
    noise = rng.integers(-40, 41, (height, width, 3))
    return (coarse + noise).clip(0, 255).astype(np.uint8)


def mmseg_input(image: np.ndarray, steps: list[dict]) -> np.ndarray:
    """What mmseg's pipeline and data preprocessor make of an RGB image."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        pipeline = Compose(
            [TRANSFORMS.build(step) for step in [*steps, dict(type='PackSegInputs')]]
        )
    bgr = np.ascontiguousarray(image[..., ::-1])
    packed = pipeline(dict(img=bgr, img_shape=bgr.shape[:2], ori_shape=bgr.shape[:2]))
    preprocessor = SegDataPreProcessor(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    )
    return preprocessor(pseudo_collate([packed]))['inputs'][0].numpy()


def check_parity(name: str, image: np.ndarray) -> None:
    if name == 'hf':
        processor = SegformerImageProcessorPil()
        expected = processor(Image.fromarray(image), return_tensors='np')['pixel_values'][0]
    else:
        expected = mmseg_input(image, MMSEG_STEPS[name])
    found = find_preset(name)(image)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    assert found.shape == expected.shape
    # Grey levels are 0.017 apart; mmseg's mean and deviation are those of ImageNet rounded at 255.
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize('name', ['hf', 'mmseg', 'nvlabs'])
@pytest.mark.parametrize('size', [(75, 101), (130, 61)], ids=str)
def test_preset__gives_what_its_world_does(name: str, size: tuple[int, int]) -> None:
    check_parity(name, textured(*size))


@pytest.mark.data
@pytest.mark.parametrize('name', ['hf', 'mmseg', 'nvlabs'])
def test_preset__real_photos(name: str) -> None:
    root = Path(os.environ['MMEXT_DATA'])
    photos = sorted(root.glob('person_parsing/photos/*.jpg'))[:2]
    photos += sorted(root.glob('matting/image/*.jpg'))[:1]
    photos += sorted(root.glob('magnetic_tile/MT_Blowhole/Imgs/*.jpg'))[:1]
    assert len(photos) == 4
    for photo in photos:
        check_parity(name, np.asarray(Image.open(photo).convert('RGB')))


@pytest.mark.parametrize(
    ('name', 'size', 'expected'),
    [
        ('hf', (10, 3000), (512, 512)),
        ('mmseg', (1, 5000), (1, 2048)),
        ('mmseg', (5000, 1), (2048, 1)),
        ('nvlabs', (1, 5000), (32, 2048)),
        ('nvlabs', (1, 1), (512, 512)),
    ],
    ids=str,
)
def test_preset__extreme_shapes(
    name: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert find_preset(name)(np.full((*size, 3), 255, np.uint8)).shape == (3, *expected)


def test_find_preset__unknown() -> None:
    with pytest.raises(
        ValueError, match="got 'mmsegs', expected one of hf, mmseg, nvlabs; did you mean 'mmseg'"
    ):
        find_preset('mmsegs')
