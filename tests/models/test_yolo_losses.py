"""Box, distance and mask losses of YOLO, and the ground truth they are given."""

import math

import numpy as np
import pytest
import torch
from mmdet.models.losses import DistributionFocalLoss
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor
from torch.nn import functional

from mmext.models.common.distribution import distribution_focal_loss
from mmext.models.yolo.losses import BoxDistributionLoss, CIoULoss
from mmext.models.yolo.mask_losses import DenseMaskLoss, MaskPositives, PointMaskLoss
from mmext.models.yolo.targets import best_positives, pad_truth, pool_masks
from mmext.structures.boxes import box_iou, complete_iou
from tests.models.yolo_models import ellipses


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_boxes(num: int, size: float = 64.0) -> Tensor:
    corners = torch.rand(num, 2, 2) * size
    return torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)


# ---------------------------------------------------------------------------------------------- boxes


def test_box_iou__equals_mmdet() -> None:
    boxes, others = random_boxes(7), random_boxes(5)
    torch.testing.assert_close(box_iou(boxes[:, None], others[None]), bbox_overlaps(boxes, others))


@pytest.mark.parametrize(
    ('box', 'other', 'expected'),
    [
        # Equal boxes; v = 0.
        ([0, 0, 4, 4], [0, 0, 4, 4], 1.0),
        # Disjoint squares: IoU 0, centres 6 apart, hull 8 x 2.
        ([0, 0, 2, 2], [6, 0, 8, 2], -36 / 68),
        # Same centre, 4 x 2 in 4 x 4: IoU 1/2, no distance, aspect (atan 2 - atan 1)^2.
        ([0, 1, 4, 3], [0, 0, 4, 4], None),
        # The same aspect term where the IoU is far below 1/2: no gate.
        ([0, 3, 8, 5], [0, 0, 8, 8], None),
    ],
    ids=['equal', 'disjoint', 'flat-in-square', 'flat-in-square-below-half'],
)
def test_complete_iou__by_hand(box: list, other: list, expected: float | None) -> None:
    if expected is None:
        width, height = box[2] - box[0], box[3] - box[1]
        iou = height / width
        v = 4 / math.pi**2 * (math.atan(width / height) - math.pi / 4) ** 2
        expected = iou - v * v / (1 - iou + v)
    value = complete_iou(torch.tensor(box).float(), torch.tensor(other).float())
    assert float(value) == pytest.approx(expected, abs=1e-5)


def test_complete_iou__no_gradient_through_alpha() -> None:
    box = torch.tensor([0.0, 0.0, 8.0, 2.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([0.0, 0.0, 8.0, 8.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(complete_iou(box, other), box)

    iou, v = 0.25, 4 / math.pi**2 * (math.atan(4) - math.pi / 4) ** 2
    alpha = v / (1 - iou + v)

    def with_fixed_alpha(y2: float) -> float:
        aspect = 4 / math.pi**2 * (math.atan(8 / y2) - math.pi / 4) ** 2
        return y2 / 8 - (4 - y2 / 2) ** 2 / 128 - alpha * aspect

    slope = (with_fixed_alpha(2 + 1e-5) - with_fixed_alpha(2 - 1e-5)) / 2e-5
    assert float(gradient[3]) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(
    'empty', [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 5.0, 3.0]], ids=['point', 'line']
)
def test_complete_iou__empty_boxes_stay_finite(empty: list[float]) -> None:
    box = torch.tensor(empty, requires_grad=True)
    value = complete_iou(box, torch.tensor([0.0, 0.0, 4.0, 4.0]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(box.grad).all()


def test_ciou_loss__weighted_sum_over_avg_factor() -> None:
    pred, target, weight = random_boxes(3), random_boxes(3), torch.tensor([0.0, 1.0, 0.5])
    each = 1 - complete_iou(pred, target)
    loss = CIoULoss(loss_weight=2.0)(pred, target, weight, avg_factor=4.0)
    assert float(loss) == pytest.approx(2 * float(each[1] + 0.5 * each[2]) / 4)


# ------------------------------------------------------------------------------------------- distances


def test_distribution_focal_loss__equals_mmdet_inside_the_bins() -> None:
    logits, distance = torch.randn(6, 4, 16), torch.rand(6, 4) * 14.9
    mmdet_loss = DistributionFocalLoss(reduction='none')(
        logits.reshape(24, 16), distance.reshape(24)
    )
    torch.testing.assert_close(distribution_focal_loss(logits, distance), mmdet_loss.reshape(6, 4))


@pytest.mark.parametrize(
    ('distance', 'clamped'),
    [(-3.0, 0.0), (15.0, 14.99), (99.0, 14.99)],
    ids=['below', 'last', 'far'],
)
def test_distribution_focal_loss__distances_outside_the_bins_are_clamped(
    distance: float, clamped: float
) -> None:
    logits = torch.randn(16)
    outside = distribution_focal_loss(logits, torch.tensor(distance))
    assert outside == distribution_focal_loss(logits, torch.tensor(clamped))
    log_prob = logits.log_softmax(0)
    left = int(clamped)
    by_hand = -(left + 1 - clamped) * log_prob[left] - (clamped - left) * log_prob[left + 1]
    assert float(outside) == pytest.approx(float(by_hand), rel=1e-5)


def test_box_distribution_loss__mean_of_the_sides() -> None:
    # Uniform distributions: the cross entropy of every side is log 16.
    loss = BoxDistributionLoss(loss_weight=1.5)(
        torch.zeros(2, 4, 16), torch.full((2, 4), 3.3), torch.tensor([1.0, 0.5]), avg_factor=3.0
    )
    assert float(loss) == pytest.approx(1.5 * 1.5 * math.log(16) / 3, rel=1e-5)


# ----------------------------------------------------------------------------------------------- masks


def make_positives(
    size: int = 64, per_truth: tuple[int, ...] = (2, 0, 1, 3), mask_stride: int = 4
) -> tuple[Tensor, MaskPositives]:
    """Prototypes and positives of three images with (2, 0, 2) ground truths: ellipses in random boxes."""
    bboxes = torch.tensor(
        [
            [4.0, 8.5, 40.0, 50.0],
            [10.0, 2.0, 60.0, 30.3],
            [0.0, 0.0, 64.0, 64.0],
            [33.3, 20.0, 52.0, 61.0],
        ]
    )
    masks = torch.from_numpy(ellipses(bboxes, size, size, scale=mask_stride))
    gt = torch.arange(4).repeat_interleave(torch.tensor(per_truth))
    prototypes = torch.randn(3, 5, size // 4, size // 4, requires_grad=True)
    coeffs = torch.randn(len(gt), 5, requires_grad=True)
    num_per_image = [sum(per_truth[:2]), 0, sum(per_truth[2:])]
    return prototypes, MaskPositives(coeffs, gt, bboxes, masks, num_per_image, [2, 0, 2])


def dense_loss_slowly(prototypes: Tensor, positives: MaskPositives, stride: int = 4) -> float:
    """The definition, positive by positive and pixel by pixel."""
    image_of = [0] * positives.num_per_image[0] + [2] * positives.num_per_image[2]
    total = 0.0
    for coeffs, gt, image in zip(
        positives.coeffs.detach(), positives.gt.tolist(), image_of, strict=True
    ):
        logits = (coeffs[:, None, None] * prototypes[image]).sum(0)
        if stride != 4:
            logits = functional.interpolate(
                logits[None, None], positives.masks.shape[1:], mode='bilinear', align_corners=False
            )[0, 0]
        x1, y1, x2, y2 = (positives.bboxes[gt] / stride).tolist()
        inside = 0.0
        for row in range(logits.shape[0]):
            for column in range(logits.shape[1]):
                if x1 <= column < x2 and y1 <= row < y2:
                    p = 1 / (1 + math.exp(-float(logits[row, column])))
                    is_set = bool(positives.masks[gt, row, column])
                    inside -= math.log(p if is_set else 1 - p)
        total += inside / ((x2 - x1) * (y2 - y1))
    return total / len(positives.gt)


@pytest.mark.parametrize('stride', [4, 2])
def test_dense_mask_loss__equals_the_definition(stride: int) -> None:
    prototypes, positives = make_positives(mask_stride=stride)
    loss = DenseMaskLoss(loss_weight=2.0, mask_stride=stride)(prototypes, positives)
    expected = 2 * dense_loss_slowly(prototypes.detach(), positives, stride)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_point_mask_loss__equals_the_dense_loss_in_expectation() -> None:
    prototypes, positives = make_positives(mask_stride=1)
    # Boxes on whole pixels: the dense mean over pixels is then the mean over the area.
    positives = positives._replace(bboxes=positives.bboxes.round())
    dense = DenseMaskLoss(mask_stride=1)(prototypes, positives)
    points = PointMaskLoss(num_points=200_000)(prototypes, positives)
    assert points.item() == pytest.approx(dense.item(), rel=0.01)


def test_point_mask_loss__logits_at_points_equal_sampled_full_logits() -> None:
    """A mask that equals the sign of the logits, and logits that are large: the loss must vanish."""
    ramp = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16) * 2000  # changes sign in the middle
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, :, 32:] = 1
    positives = MaskPositives(
        torch.ones(1, 1), torch.tensor([0]), torch.tensor([[0.0, 0.0, 64.0, 64.0]]), masks, [1], [1]
    )
    right = PointMaskLoss(num_points=4096, mask_stride=1)(ramp, positives)
    wrong = PointMaskLoss(num_points=4096, mask_stride=1)(-ramp, positives)
    assert float(right) < 0.1
    assert float(wrong) > 1000


@pytest.mark.parametrize('loss_class', [DenseMaskLoss, PointMaskLoss])
def test_mask_loss__chunks_change_neither_value_nor_gradient(loss_class: type) -> None:
    results = []
    for max_chunk_values in (2**24, 300):
        torch.manual_seed(0)
        prototypes, positives = make_positives()
        loss = loss_class(mask_stride=4, max_chunk_values=max_chunk_values)(prototypes, positives)
        results.append([loss.detach(), *torch.autograd.grad(loss, [prototypes, positives.coeffs])])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole)


@pytest.mark.parametrize('loss_class', [DenseMaskLoss, PointMaskLoss])
def test_mask_loss__no_positives_is_zero_with_gradient(loss_class: type) -> None:
    prototypes, positives = make_positives(per_truth=(0, 0, 0, 0))
    loss = loss_class(mask_stride=4)(prototypes, positives)
    loss.backward()
    assert loss == 0
    assert (prototypes.grad == 0).all()
    assert positives.coeffs.grad is not None


@pytest.mark.parametrize(
    ('loss_class', 'settings', 'message'),
    [
        (DenseMaskLoss, dict(mask_stride=0), 'mask_stride=0'),
        (DenseMaskLoss, dict(max_positives=0), 'max_positives=0'),
        (PointMaskLoss, dict(num_points=0), 'num_points=0'),
    ],
    ids=['stride', 'positives', 'points'],
)
def test_mask_loss__wrong_settings(loss_class: type, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_class(**settings)


# --------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize('stride', [1, 2, 4, 8])
def test_pool_masks__half_of_the_block_or_more(stride: int) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (3, 32, 48), dtype=np.uint8)
    mean = functional.avg_pool2d(torch.from_numpy(masks).double(), stride)
    pooled = pool_masks(masks, stride)
    assert pooled.dtype == torch.uint8
    assert torch.equal(pooled.bool(), mean >= 0.5)


def test_pool_masks__no_instances() -> None:
    assert pool_masks(np.zeros((0, 32, 48), dtype=np.uint8), 4).shape == (0, 8, 12)


def test_pool_masks__leaves_the_input_alone() -> None:
    masks = np.ones((1, 8, 8), dtype=np.uint8)
    pool_masks(masks, 4)
    assert (masks == 1).all()


def test_pad_truth__pads_to_the_most_and_says_where() -> None:
    bboxes = [random_boxes(n) for n in (2, 0, 3)]
    truth = pad_truth([torch.arange(n) for n in (2, 0, 3)], bboxes)
    assert truth.labels.tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 2]]
    assert truth.valid.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert torch.equal(truth.bboxes[2], bboxes[2])
    assert (truth.bboxes[0, 2] == 0).all()


@pytest.mark.parametrize(
    ('limit', 'kept'),
    [
        (1, [0, 3, 5]),  # one for each ground truth, though image 0 has two
        (3, [0, 1, 3, 4, 5]),
        (9, [0, 1, 2, 3, 4, 5]),
    ],
    ids=['fewer-than-truths', 'some', 'all'],
)
def test_best_positives__best_of_each_truth_then_by_quality(limit: int, kept: list[int]) -> None:
    image = torch.tensor([0, 0, 0, 0, 1, 1])
    gt = torch.tensor([0, 0, 0, 1, 2, 2])
    quality = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.4, 0.6])
    assert best_positives(image, gt, quality, limit).nonzero()[:, 0].tolist() == kept


def test_best_positives__none() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert len(best_positives(nothing, nothing, torch.zeros(0), 5)) == 0
