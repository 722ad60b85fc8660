"""Masks from coefficients and prototypes, sampled inside the boxes only."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional

from mmext.models.yolo.assembly import (
    MaskCorrection,
    OutputFrame,
    assemble_bitmaps,
    assemble_rles,
    encode_roi,
)
from tests.models.yolo_models import LargestTensor

INPUT_SIZE = (64, 96)


def scene(
    num: int, size: tuple[int, int], seed: int = 0, input_size: tuple[int, int] = INPUT_SIZE
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients (N, K), prototypes (K, h, w), boxes (N, 4) partly outside an output of `size`."""
    generator = torch.Generator().manual_seed(seed)
    coeffs = torch.randn(num, 4, generator=generator)
    prototypes = torch.randn(4, input_size[0] // 4, input_size[1] // 4, generator=generator)
    corners = torch.rand(num, 2, 2, generator=generator) * 1.2 - 0.1
    corners = corners * torch.tensor([size[1], size[0]])
    return coeffs, prototypes, torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def assemble_full_frame(
    coeffs: Tensor,
    prototypes: Tensor,
    bboxes: Tensor,
    frame: OutputFrame,
    threshold: float = 0.5,
    correction: Tensor | float = 0.0,
) -> Tensor:
    """All logits, resized as a whole by F.interpolate, cut free of padding, corrected, thresholded, cropped."""
    whole = [
        round(side / s)
        for side, s in zip(frame.input_size, (frame.scale_y, frame.scale_x), strict=True)
    ]
    logits = (coeffs @ prototypes.flatten(1)).unflatten(1, prototypes.shape[1:])
    resized = functional.interpolate(logits[None], whole, mode='bilinear', align_corners=False)[0]
    top, left = round(frame.top / frame.scale_y), round(frame.left / frame.scale_x)
    height, width = frame.size
    logits = resized[:, top : top + height, left : left + width] + correction
    masks = logits.sigmoid() > threshold
    x1, y1, x2, y2 = bboxes[:, :, None, None].unbind(1)
    columns, rows = torch.arange(width), torch.arange(height)[:, None]
    return masks & (columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2)


FRAMES = {
    'network-input': OutputFrame(INPUT_SIZE, INPUT_SIZE),
    'bottom-right-padding': OutputFrame((100, 170), INPUT_SIZE, 0.5, 0.5),
    'letterbox-larger-original': OutputFrame((112, 160), INPUT_SIZE, 0.5, 0.5, 8, 4),
    'letterbox-smaller-original': OutputFrame((24, 40), INPUT_SIZE, 2.0, 2.0, 6, 8),
    'anisotropic': OutputFrame((240, 150), INPUT_SIZE, 0.5, 0.25, 10, 1),
}


@pytest.mark.parametrize('frame', FRAMES.values(), ids=FRAMES)
def test_assemble_bitmaps__equals_full_frame_interpolation(frame: OutputFrame) -> None:
    coeffs, prototypes, bboxes = scene(12, frame.size)
    masks = assemble_bitmaps(coeffs, prototypes, bboxes, frame=frame)
    expected = assemble_full_frame(coeffs, prototypes, bboxes, frame)
    assert masks.shape == expected.shape
    assert expected.any(dim=(1, 2)).sum() > 6
    # Where a logit is 0 to rounding, either answer is right.
    assert (masks != expected).float().mean() < 1e-5


def test_assemble_bitmaps__threshold() -> None:
    frame = FRAMES['letterbox-larger-original']
    coeffs, prototypes, bboxes = scene(6, frame.size)
    areas = []
    for threshold in (0.2, 0.8):
        masks = assemble_bitmaps(coeffs, prototypes, bboxes, frame=frame, threshold=threshold)
        expected = assemble_full_frame(coeffs, prototypes, bboxes, frame, threshold)
        assert (masks != expected).float().mean() < 1e-5
        areas.append(int(masks.sum()))
    assert areas[0] > 1.2 * areas[1] > 0


@pytest.mark.parametrize('threshold', [0.0, 1.0])
def test_assemble__threshold_outside_0_1(threshold: float) -> None:
    frame = FRAMES['network-input']
    with pytest.raises(ValueError, match='mask threshold'):
        assemble_bitmaps(*scene(1, frame.size), frame=frame, threshold=threshold)


@pytest.mark.parametrize('frame', FRAMES.values(), ids=FRAMES)
def test_assemble_rles__decodes_to_the_bitmaps(frame: OutputFrame) -> None:
    coeffs, prototypes, bboxes = scene(12, frame.size, seed=1)
    bitmaps = assemble_bitmaps(coeffs, prototypes, bboxes, frame=frame)
    rles = assemble_rles(coeffs, prototypes, bboxes, frame=frame)
    assert np.array_equal(coco_mask.decode(rles).transpose(2, 0, 1), bitmaps.numpy())


@pytest.mark.parametrize('assemble', [assemble_bitmaps, assemble_rles])
def test_assemble__chunks_change_nothing(assemble: Callable[..., Any]) -> None:
    frame = FRAMES['letterbox-larger-original']
    inputs = scene(9, frame.size)
    # 50 pixels: single objects, in bands of one row.
    small, large = (assemble(*inputs, frame=frame, max_chunk_pixels=n) for n in (50, 2**22))
    if isinstance(large, Tensor):
        assert torch.equal(small, large)
    else:
        assert small == large


def test_assemble__no_objects() -> None:
    frame = FRAMES['bottom-right-padding']
    inputs = scene(0, frame.size)
    assert assemble_bitmaps(*inputs, frame=frame).shape == (0, *frame.size)
    assert assemble_bitmaps(*inputs, frame=frame).dtype == torch.bool
    assert assemble_rles(*inputs, frame=frame) == []


@pytest.mark.parametrize(
    'box',
    [[5.0, 5.0, 5.0, 9.0], [-9.0, 3.0, -2.0, 8.0], [200.0, 3.0, 210.0, 8.0], [float('nan')] * 4],
    ids=['no-width', 'left-of-the-image', 'right-of-the-image', 'nan'],
)
def test_assemble__box_without_pixels_is_an_empty_mask(box: list[float]) -> None:
    frame = FRAMES['network-input']
    coeffs, prototypes, _ = scene(1, frame.size)
    inputs = (coeffs, prototypes, torch.tensor([box]))
    assert not assemble_bitmaps(*inputs, frame=frame).any()
    (rle,) = assemble_rles(*inputs, frame=frame)
    assert coco_mask.area(rle) == 0
    assert rle['size'] == list(frame.size)


# -------------------------------------------------------------------------------------------- correction


def correct(bboxes: Tensor, frame: OutputFrame, size: int = 9) -> MaskCorrection:
    """Random deltas on output boxes, made 10 % longer, in pixels of the network input."""
    offset = torch.tensor([frame.left, frame.top]).repeat(2)
    regions = bboxes * torch.tensor([frame.scale_x, frame.scale_y]).repeat(2) + offset
    margin = 0.05 * (regions[:, 2:] - regions[:, :2])
    regions = torch.cat([regions[:, :2] - margin, regions[:, 2:] + margin], dim=1)
    deltas = torch.randn(len(bboxes), size, size, generator=torch.Generator().manual_seed(5))
    return MaskCorrection(3 * deltas, regions)


def correct_full_frame(correction: MaskCorrection, frame: OutputFrame) -> Tensor:
    """The deltas at every output pixel by grid_sample, zero beyond their regions: (N, H, W)."""
    height, width = frame.size
    x = (torch.arange(width) + 0.5) * frame.scale_x + frame.left
    y = (torch.arange(height) + 0.5) * frame.scale_y + frame.top
    maps = []
    for delta, (x1, y1, x2, y2) in zip(*correction, strict=True):
        across, down = 2 * (x - x1) / (x2 - x1) - 1, 2 * (y - y1) / (y2 - y1) - 1
        grid = torch.stack(torch.broadcast_tensors(across, down[:, None]), dim=-1)
        maps.append(functional.grid_sample(delta[None, None], grid[None], align_corners=False))
    return torch.cat(maps)[:, 0]


@pytest.mark.parametrize('frame', FRAMES.values(), ids=FRAMES)
def test_assemble_bitmaps__correction_equals_the_full_frame(frame: OutputFrame) -> None:
    coeffs, prototypes, bboxes = scene(12, frame.size)
    correction = correct(bboxes, frame)
    masks = assemble_bitmaps(coeffs, prototypes, bboxes, frame=frame, correction=correction)
    deltas = correct_full_frame(correction, frame)
    expected = assemble_full_frame(coeffs, prototypes, bboxes, frame, correction=deltas)
    plain = assemble_bitmaps(coeffs, prototypes, bboxes, frame=frame)
    assert (masks != plain).float().mean() > 0.01
    assert (masks != expected).float().mean() < 1e-5


@pytest.mark.parametrize('assemble', [assemble_bitmaps, assemble_rles])
def test_assemble__a_correction_of_zero_changes_nothing(assemble: Callable[..., Any]) -> None:
    frame = FRAMES['anisotropic']
    inputs = scene(12, frame.size)
    nothing = MaskCorrection(torch.zeros(12, 9, 9), correct(inputs[2], frame).bboxes)
    plain = assemble(*inputs, frame=frame)
    corrected = assemble(*inputs, frame=frame, correction=nothing)
    if isinstance(plain, Tensor):
        assert torch.equal(corrected, plain)
    else:
        assert corrected == plain


@pytest.mark.parametrize('frame', FRAMES.values(), ids=FRAMES)
def test_assemble_rles__corrected_as_the_bitmaps(frame: OutputFrame) -> None:
    inputs = scene(12, frame.size, seed=1)
    settings = dict(frame=frame, correction=correct(inputs[2], frame), max_chunk_pixels=200)
    bitmaps = assemble_bitmaps(*inputs, **settings)
    rles = assemble_rles(*inputs, **settings)
    assert np.array_equal(coco_mask.decode(rles).transpose(2, 0, 1), bitmaps.numpy())


# ------------------------------------------------------------------------------------------- run lengths


def place(mask: np.ndarray, x1: int, y1: int, size: tuple[int, int]) -> np.ndarray:
    full = np.zeros(size, dtype=np.uint8, order='F')
    full[y1 : y1 + mask.shape[0], x1 : x1 + mask.shape[1]] = mask
    return full


@pytest.mark.parametrize(
    ('shape', 'corner'),
    [
        ((7, 9), (3, 2)),
        ((20, 30), (0, 0)),
        ((20, 4), (26, 0)),
        ((5, 30), (0, 15)),
        ((1, 1), (29, 19)),
    ],
    ids=['inside', 'whole-image', 'full-columns', 'full-rows', 'last-pixel'],
)
@pytest.mark.parametrize('content', ['random', 'ones', 'zeros'])
def test_encode_roi__equals_encoding_the_whole_image(
    content: str, shape: tuple[int, int], corner: tuple[int, int]
) -> None:
    random = np.random.default_rng(0).random(shape) > 0.4
    mask = {'random': random, 'ones': np.ones(shape, bool), 'zeros': np.zeros(shape, bool)}[content]
    rle = encode_roi(mask, *corner, (20, 30))
    assert rle == coco_mask.encode(place(mask, *corner, (20, 30)))


def test_assemble_rles__memory_at_1080p_is_bounded_by_the_chunk() -> None:
    size, input_size = (1080, 1920), (384, 640)
    frame = OutputFrame(size, input_size, 1 / 3, 1 / 3, 0, 12)
    inputs = scene(100, size, input_size=input_size)
    with LargestTensor() as largest:
        assemble_rles(*inputs, frame=frame, max_chunk_pixels=2**20)
    # 100 maps of 1080p would be 207 million values. A sampling grid holds x and y for each pixel of the chunk
    # or of one object, whose booleans alone are not chunked; a group's logits have the prototypes' size.
    assert largest.numel <= max(2 * 2**20, 1080 * 1920)
