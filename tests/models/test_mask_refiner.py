"""`MaskRefiner` and its loss: regions, deltas, targets."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.yolo.mask_losses import MaskPositives
from mmext.models.yolo.refine_loss import RefineLoss, jitter_boxes, region_loss, sample_truth
from mmext.models.yolo.refiner import (
    MaskRefiner,
    RoiInputs,
    cell_centres,
    expand_boxes,
    sample_regions,
)
from mmext.models.yolo.targets import draw_positives
from tests.models.yolo_models import LargestTensor, ellipses

INPUT = (64, 96)
NUM_PROTOTYPES, CONTEXT = 4, 3


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(**settings: object) -> MaskRefiner:
    config = dict(
        in_channels=5,
        context_channels=CONTEXT,
        hidden_channels=6,
        train_size=14,
        test_size=10,
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='SiLU'),
    )
    return MaskRefiner(**(config | settings))


def trained(refiner: MaskRefiner) -> MaskRefiner:
    """With a delta that is not zero."""
    nn.init.normal_(refiner.delta.weight)
    return refiner


def scene(num: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coefficients, prototypes, context, boxes of one image; some boxes reach beyond it."""
    corners = torch.rand(num, 2, 2) * torch.tensor([INPUT[1], INPUT[0]]) * 1.2 - 6
    return (
        torch.randn(num, NUM_PROTOTYPES),
        torch.randn(NUM_PROTOTYPES, INPUT[0] // 4, INPUT[1] // 4),
        torch.randn(CONTEXT, INPUT[0] // 4, INPUT[1] // 4),
        torch.cat([corners.amin(1), corners.amax(1)], dim=1),
    )


# --------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize(
    ('box', 'expected'),
    [
        ([10.0, 20.0, 30.0, 60.0], [9.0, 18.0, 31.0, 62.0]),
        ([5.0, 5.0, 5.0, 5.0], [4.5, 4.5, 5.5, 5.5]),
    ],
    ids=['tenth', 'point'],
)
def test_expand_boxes__by_hand(box: list[float], expected: list[float]) -> None:
    torch.testing.assert_close(expand_boxes(torch.tensor([box]), 0.1), torch.tensor([expected]))


def test_cell_centres__by_hand() -> None:
    points = cell_centres(torch.tensor([[10.0, 20.0, 18.0, 24.0]]), 2)
    assert points.tolist() == [[[[12.0, 21.0], [16.0, 21.0]], [[12.0, 23.0], [16.0, 23.0]]]]


def bilinear(values: Tensor, x: float, y: float) -> float:
    """Values (h, w) with cell (i, j) at x = j + 0.5, y = i + 0.5; the edge's values beyond it."""
    height, width = values.shape
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    weights = ((1 - (y - top)) * (1 - (x - left)), (1 - (y - top)) * (x - left))
    weights += ((y - top) * (1 - (x - left)), (y - top) * (x - left))
    corners = values[top : top + 2, left : left + 2].flatten().tolist()
    return sum(weight * value for weight, value in zip(weights, corners, strict=True))


def test_sample_regions__equals_a_slow_loop() -> None:
    coeffs, prototypes, context, bboxes = scene(3)
    inputs = sample_regions(coeffs, prototypes, context, bboxes, 3, INPUT)
    logits = (coeffs[:, :, None, None] * prototypes).sum(1)
    for n, (x1, y1, x2, y2) in enumerate(bboxes.tolist()):
        for row in range(3):
            for column in range(3):
                x = (x1 + (column + 0.5) / 3 * (x2 - x1)) / 4
                y = (y1 + (row + 0.5) / 3 * (y2 - y1)) / 4
                found = [inputs.coarse[n, row, column], *inputs.context[n, :, row, column]]
                expected = [bilinear(map_, x, y) for map_ in (logits[n], *context)]
                assert [float(value) for value in found] == pytest.approx(expected, abs=1e-4)


# --------------------------------------------------------------------------------------------- refiner


def test_forward__a_fresh_refiner_adds_exactly_nothing() -> None:
    coeffs, prototypes, context, bboxes = scene(5)
    deltas = build().predict(coeffs, prototypes, context, regions=bboxes, input_size=INPUT)
    assert torch.equal(deltas, torch.zeros(5, 10, 10))


def test_forward__the_coarse_logit_is_read_but_not_trained() -> None:
    refiner = trained(build())
    coarse = torch.randn(2, 7, 7, requires_grad=True)
    context = torch.randn(2, CONTEXT, 7, 7, requires_grad=True)
    delta = refiner(RoiInputs(coarse, context))
    delta.sum().backward()
    assert coarse.grad is None
    assert context.grad.abs().sum() > 0
    assert not torch.equal(delta, refiner(RoiInputs(coarse + 1, context)))


@pytest.mark.parametrize('num', [0, 1, 7])
def test_predict__chunks_change_nothing(num: int) -> None:
    refiner = trained(build())
    coeffs, prototypes, context, regions = scene(num)
    settings = dict(regions=regions, input_size=INPUT)
    with torch.no_grad():
        whole = refiner.predict(coeffs, prototypes, context, **settings)
        single = refiner.predict(coeffs, prototypes, context, max_chunk_cells=1, **settings)
    assert whole.shape == (num, 10, 10)
    torch.testing.assert_close(single, whole)


def test_predict__memory_of_500_objects_is_bounded_by_the_chunk() -> None:
    refiner = build(test_size=28)
    coeffs, prototypes, context, regions = scene(500)
    with torch.no_grad(), LargestTensor() as largest:
        refiner.predict(
            coeffs, prototypes, context, regions=regions, input_size=INPUT, max_chunk_cells=2**13
        )
    # The deltas of all; of a chunk, no more than the input and the activations of its 10 objects.
    assert largest.numel <= max(500 * 28**2, 2**13 * 6)


# ------------------------------------------------------------------------------------------------ loss


def test_region_loss__by_hand() -> None:
    logits, targets = torch.zeros(2, 2, 2), torch.tensor([[[1.0, 1], [1, 0]], [[0, 0], [0, 0]]])
    # Probability 1/2 everywhere: intersections 1.5 and 0, sums 2 + 3 and 2 + 0, eps 1.
    dice = [1 - (2 * 1.5 + 1) / (5 + 1), 1 - 1 / (2 + 1)]
    expected = math.log(2) + sum(dice) / 2
    assert region_loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('jitter', [0.0, 0.1])
def test_jitter_boxes__each_side_by_a_part_of_its_length(jitter: float) -> None:
    bboxes = torch.tensor([[10.0, 20.0, 30.0, 120.0]]).repeat(500, 1)
    moved = (jitter_boxes(bboxes, jitter) - bboxes) / torch.tensor([20.0, 100.0, 20.0, 100.0])
    assert (moved.abs() <= jitter + 1e-5).all()
    torch.testing.assert_close(
        moved.abs().amax(dim=0), torch.full((4,), jitter), atol=0.005, rtol=0
    )


def test_sample_truth__pixel_of_each_point() -> None:
    masks = torch.tensor([[[0, 1], [0, 0]], [[1, 0], [0, 1]]], dtype=torch.uint8)
    points = torch.tensor([[[[0.4, 0.1], [0.6, 0.1]], [[-0.2, 0.9], [1.3, 1.3]]]]).repeat(
        2, 1, 1, 1
    )
    assert sample_truth(masks, torch.tensor([1, 0]), points).tolist() == [
        [[1.0, 0.0], [0.0, 1.0]],
        [[0.0, 1.0], [0.0, 0.0]],
    ]


def make_positives(num_per_image: tuple[int, ...] = (2, 0, 1)) -> MaskPositives:
    """Positives of three images with ground truths 0 and 1 in the first, 2 in the last: ellipses."""
    bboxes = torch.tensor(
        [[8.0, 8.0, 40.0, 50.0], [30.0, 4.0, 90.0, 60.0], [20.0, 10.0, 70.0, 50.0]]
    )
    gt = torch.cat([torch.arange(num_per_image[0]) % 2, torch.full((num_per_image[2],), 2)])
    return MaskPositives(
        coeffs=torch.randn(sum(num_per_image), NUM_PROTOTYPES, requires_grad=True),
        gt=gt,
        bboxes=bboxes,
        masks=torch.from_numpy(ellipses(bboxes, *INPUT)),
        num_per_image=list(num_per_image),
        gts_per_image=[2, 0, 1],
    )


def maps() -> tuple[Tensor, Tensor]:
    """Prototypes and context of three images."""
    size = (INPUT[0] // 4, INPUT[1] // 4)
    prototypes = torch.randn(3, NUM_PROTOTYPES, *size, requires_grad=True)
    return prototypes, torch.randn(3, CONTEXT, *size, requires_grad=True)


def test_refine_loss__equals_the_definition_positive_by_positive() -> None:
    refiner, positives, (prototypes, context) = trained(build()), make_positives(), maps()
    loss = RefineLoss(2.0, jitter=0.0)(
        refiner, prototypes, context, positives=positives, input_size=INPUT
    )
    terms = []
    for n, (image, gt) in enumerate(zip((0, 0, 2), positives.gt.tolist(), strict=True)):
        x1, y1, x2, y2 = expand_boxes(positives.bboxes[gt : gt + 1], 0.1)[0].tolist()
        inputs = sample_regions(
            positives.coeffs[n : n + 1],
            prototypes[image],
            context[image],
            torch.tensor([[x1, y1, x2, y2]]),
            14,
            INPUT,
        )
        target = torch.zeros(14, 14)
        for row in range(14):
            for column in range(14):
                x = min(max(int(x1 + (column + 0.5) / 14 * (x2 - x1)), 0), INPUT[1] - 1)
                y = min(max(int(y1 + (row + 0.5) / 14 * (y2 - y1)), 0), INPUT[0] - 1)
                target[row, column] = positives.masks[gt, y, x]
        probability = (inputs.coarse + refiner(inputs))[0].sigmoid()
        entropy = functional.binary_cross_entropy(probability, target)
        common = (probability * target).sum()
        terms.append(entropy + 1 - (2 * common + 1) / (probability.sum() + target.sum() + 1))
    assert loss.item() == pytest.approx(2 * sum(terms).item() / 3, rel=1e-4)


@pytest.mark.parametrize('num_per_image', [(2, 0, 1), (1, 0, 0), (0, 0, 0)], ids=str)
def test_refine_loss__gradient_to_everything(num_per_image: tuple[int, ...]) -> None:
    refiner, positives, (prototypes, context) = (
        trained(build()),
        make_positives(num_per_image),
        maps(),
    )
    loss = RefineLoss()(refiner, prototypes, context, positives=positives, input_size=INPUT)
    loss.backward()
    assert (loss > 0) == (sum(num_per_image) > 0)
    parts = (refiner.convs, refiner.delta)  # the context's convolution runs once per image, before
    inputs = [prototypes, context, positives.coeffs]
    for tensor in [*inputs, *(p for part in parts for p in part.parameters())]:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert (tensor.grad.abs().sum() > 0) == (sum(num_per_image) > 0)


def test_refine_loss__learns_a_shape_that_only_the_context_shows() -> None:
    """Prototypes know nothing, the context is the truth at stride 4: the masks get finer than that."""
    refiner, positives = build(), make_positives()
    prototypes = torch.zeros(3, NUM_PROTOTYPES, *(side // 4 for side in INPUT))
    truth = functional.avg_pool2d(positives.masks.float(), 4)
    context = torch.zeros(3, CONTEXT, *truth.shape[-2:])
    context[0, :2], context[2, 0] = truth[:2], truth[2]
    loss = RefineLoss()
    optimizer = torch.optim.Adam(refiner.parameters(), lr=0.02)
    history = []
    for _ in range(60):
        value = loss(refiner, prototypes, context, positives=positives, input_size=INPUT)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        history.append(value.item())
    assert history[-1] < 0.3 < 1 < history[0]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(max_positives=0), 'max_positives=0'),
        (dict(jitter=0.5), 'jitter=0.5'),
        (dict(jitter=-0.1), 'jitter=-0.1'),
    ],
    ids=['max_positives', 'jitter-large', 'jitter-negative'],
)
def test_refine_loss__wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RefineLoss(**settings)


# --------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize(
    ('limit', 'per_image', 'per_truth'),
    [(2, [2, 2], None), (3, [3, 2], [1, 1, 1]), (4, [4, 2], None), (9, [6, 2], [3, 2, 1])],
    ids=['fewer-than-truths', 'one-each', 'some', 'all'],
)
def test_draw_positives__every_truth_before_any_twice(
    limit: int, per_image: list[int], per_truth: list[int] | None
) -> None:
    image = torch.tensor([0] * 6 + [1] * 2)
    gt = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    for _ in range(20):
        drawn = draw_positives(image, gt, limit)
        assert image[drawn].bincount().tolist() == per_image
        counts = gt[drawn].bincount(minlength=4).tolist()[:3]
        assert counts == per_truth or per_truth is None
        assert min(counts) >= 1 or max(counts) == 1


def test_draw_positives__at_random() -> None:
    image = gt = torch.zeros(4, dtype=torch.long)
    drawn = {int(draw_positives(image, gt, 1).nonzero()) for _ in range(100)}
    assert drawn == {0, 1, 2, 3}


def test_draw_positives__none() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert len(draw_positives(nothing, nothing, 5)) == 0
