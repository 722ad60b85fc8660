"""Looking masks up at points, and choosing points by doubt."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmext.models.common import points as points_module
from mmext.models.common.points import (
    PointSampler,
    draw_in_boxes,
    sample_bitmaps,
    sample_chosen_bitmaps,
    sample_features,
    sample_logits,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def border_points() -> Tensor:
    edge = torch.tensor([0.0, 1e-4, 0.5, 1 - 1e-4, 1.0])
    return torch.cartesian_prod(edge, edge)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.bool], ids=str)
@pytest.mark.parametrize('size', [(16, 16), (7, 33), (1, 1)], ids=['square', 'odd', 'pixel'])
def test_sample_bitmaps__equals_grid_sample(size: tuple[int, int], dtype: torch.dtype) -> None:
    masks = (torch.rand(4, *size) < 0.5).to(dtype)
    points = torch.cat([torch.rand(500, 2), border_points()])
    expected = functional.grid_sample(
        masks[None].float(), 2 * points[None, None] - 1, align_corners=False
    )[0, :, 0]
    torch.testing.assert_close(sample_bitmaps(masks, points), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('size', [(16, 16), (7, 33), (1, 1)], ids=['square', 'odd', 'pixel'])
def test_sample_features__equals_grid_sample_and_its_gradient(size: tuple[int, int]) -> None:
    features = torch.randn(6, *size, requires_grad=True)
    points = torch.cat([torch.rand(500, 2), border_points()])
    ours = sample_features(features, points)
    expected = functional.grid_sample(
        features[None], 2 * points[None, None] - 1, align_corners=False
    )[0, :, 0]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((weight * ours).sum(), features),
        torch.autograd.grad((weight * expected).sum(), features),
        atol=1e-4,
        rtol=1e-4,
    )


def test_sample_bitmaps__no_masks() -> None:
    assert sample_bitmaps(torch.zeros(0, 8, 8, dtype=torch.uint8), torch.rand(5, 2)).shape == (0, 5)


def test_sample_bitmaps__pixel_centre_and_outside_by_hand() -> None:
    masks = torch.tensor([[[0, 1], [0, 0]]], dtype=torch.uint8)
    points = torch.tensor([[0.75, 0.25], [0.25, 0.25], [0.5, 0.25], [0.75, 0.5], [1.0, 0.0]])
    assert sample_bitmaps(masks, points).tolist() == [[1.0, 0.0, 0.5, 0.5, 0.25]]


@pytest.mark.parametrize(
    ('num_points', 'oversample_ratio', 'importance_ratio', 'candidates', 'unsure'),
    [(100, 3.0, 0.75, 300, 75), (7, 1.5, 0.5, 10, 3), (5, 1.0, 1.0, 5, 5), (5, 2.0, 0.0, 10, 0)],
    ids=['usual', 'rounded', 'all-candidates', 'only-random'],
)
def test_point_sampler__takes_the_least_sure_and_the_random_ones(
    num_points: int, oversample_ratio: float, importance_ratio: float, candidates: int, unsure: int
) -> None:
    sampler = PointSampler(
        num_points, oversample_ratio=oversample_ratio, importance_ratio=importance_ratio
    )
    points = sampler.draw(torch.device('cpu'))
    assert points.shape == (candidates + num_points - unsure, 2)
    assert points.min() >= 0 and points.max() <= 1

    logits = torch.randn(3, len(points))
    chosen = sampler.choose(logits)
    for row, own in zip(logits.tolist(), chosen.tolist(), strict=True):
        by_doubt = sorted(range(candidates), key=lambda index, row=row: abs(row[index]))
        assert sorted(own) == sorted(by_doubt[:unsure] + list(range(candidates, len(points))))


def test_point_sampler__no_masks() -> None:
    sampler = PointSampler(8)
    assert sampler.choose(torch.zeros(0, len(sampler.draw(torch.device('cpu'))))).shape == (0, 8)


@pytest.mark.parametrize(
    ('num_points', 'ratios'),
    [
        (0, {}),
        (8, dict(oversample_ratio=0.5)),
        (8, dict(importance_ratio=1.5)),
        (8, dict(importance_ratio=-0.1)),
    ],
    ids=['no-points', 'undersampled', 'above-one', 'negative'],
)
def test_point_sampler__range_errors(num_points: int, ratios: dict) -> None:
    with pytest.raises(ValueError, match='expected at least 1, at least 1, and 0 to 1'):
        PointSampler(num_points, **ratios)


def test_sample_chosen_bitmaps__equals_all_masks_at_the_points_of_one() -> None:
    masks = (torch.rand(3, 7, 9) < 0.5).to(torch.uint8)
    chosen, points = torch.tensor([2, 0, 2, 1]), torch.rand(4, 50, 2)
    expected = [sample_bitmaps(masks, own)[i] for i, own in zip(chosen, points, strict=True)]
    assert torch.equal(sample_chosen_bitmaps(masks, chosen, points), torch.stack(expected))


@pytest.mark.parametrize('chunk', [1, 2 * 6 * 50, 2**24], ids=['single', 'pairs', 'whole'])
def test_sample_logits__equals_grid_sample_of_whole_masks(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points_module, 'MAX_CHUNK_VALUES', chunk)
    embeddings = torch.randn(2, 5, 6, requires_grad=True)
    features = torch.randn(6, 8, 9, requires_grad=True)
    points = torch.rand(5, 50, 2)
    ours = sample_logits(embeddings, features, points)
    whole = torch.einsum('nmd,dhw->mnhw', embeddings, features)
    expected = functional.grid_sample(whole, 2 * points[:, None] - 1, align_corners=False)
    expected = expected[:, :, 0].transpose(0, 1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((weight * ours).sum(), [embeddings, features]),
        torch.autograd.grad((weight * expected).sum(), [embeddings, features]),
        atol=1e-4,
        rtol=1e-4,
    )


def test_draw_in_boxes__uniform_in_the_longer_box_inside_the_image() -> None:
    bboxes = torch.tensor([[0.4, 0.4, 0.6, 0.5], [0.9, 0.0, 1.0, 0.2], [0.3, 0.3, 0.3, 0.3]])
    points = draw_in_boxes(bboxes, 20000, expansion=0.5)
    bounds = torch.tensor([[0.35, 0.375, 0.65, 0.525], [0.875, 0.0, 1.0, 0.25], [0.3] * 4])
    assert points.shape == (3, 20000, 2)
    for own, (x1, y1, x2, y2) in zip(points, bounds, strict=True):
        first, last = torch.stack([x1, y1]), torch.stack([x2, y2])
        assert (own >= first - 1e-6).all() and (own <= last + 1e-6).all()
        # Mean and spread of a uniform distribution; 20000 points know them to half a percent.
        length = last - first
        torch.testing.assert_close(own.mean(dim=0), (first + last) / 2, atol=3e-3, rtol=0)
        torch.testing.assert_close(own.std(dim=0), length / 12**0.5, atol=3e-3, rtol=0)
