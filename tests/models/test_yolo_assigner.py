"""`BatchTALAssigner` against a loop over images, ground truths and priors."""

import math

import pytest
import torch
from torch import Tensor

from mmext.apis.memory import in_fresh_process, peak_on_cpu
from mmext.models.yolo.assigner import BatchTALAssigner
from mmext.models.yolo.targets import pad_truth
from tests.models.yolo_models import LargestTensor

SIDE = 96
NUM_CLASSES = 3


def make_priors(strides: tuple[int, ...] = (8, 16, 32)) -> Tensor:
    """Prior centres (A, 2) of a 96 x 96 input."""
    return torch.tensor(
        [
            ((column + 0.5) * stride, (row + 0.5) * stride)
            for stride in strides
            for row in range(SIDE // stride)
            for column in range(SIDE // stride)
        ]
    )


def random_boxes(num: int, generator: torch.Generator) -> Tensor:
    """Large boxes near the middle: all overlap, and every one holds many priors."""
    centre = SIDE / 2 + 24 * (torch.rand(num, 2, generator=generator) - 0.5)
    half = 18 + 14 * torch.rand(num, 2, generator=generator)
    return torch.cat([centre - half, centre + half], dim=1)


def random_scene(num_gts: list[int], seed: int = 0) -> tuple[Tensor, Tensor, list, list]:
    """Scores (B, C, A), predicted boxes (B, A, 4), and per image labels and boxes."""
    generator = torch.Generator().manual_seed(seed)
    num_priors = len(make_priors())
    scores = torch.rand(len(num_gts), NUM_CLASSES, num_priors, generator=generator)
    bboxes = torch.stack([random_boxes(num_priors, generator) for _ in num_gts])
    labels = [torch.randint(NUM_CLASSES, (n,), generator=generator) for n in num_gts]
    return scores, bboxes, labels, [random_boxes(n, generator) for n in num_gts]


def scalar_ciou(a: list[float], b: list[float]) -> float:
    """Complete IoU in plain Python."""
    inter_w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    inter_h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    wa, ha, wb, hb = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    iou = inter_w * inter_h / (wa * ha + wb * hb - inter_w * inter_h)
    hull_w = max(a[2], b[2]) - min(a[0], b[0])
    hull_h = max(a[3], b[3]) - min(a[1], b[1])
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    v = 4 / math.pi**2 * (math.atan(wa / ha) - math.atan(wb / hb)) ** 2
    alpha = v / (1 - iou + v) if v else 0.0
    return iou - (dx * dx + dy * dy) / (hull_w**2 + hull_h**2) - alpha * v


def assign_image_slowly(
    scores: Tensor, bboxes: Tensor, labels: Tensor, gts: Tensor, topk: int
) -> tuple[list[int], list[float]]:
    """The rules, one pair at a time: owner of each prior (-1 for none) and its soft target.

    Candidates of a ground truth are the priors inside it: by alignment where there is any, behind those by their
    distance from its centre.
    """
    priors = make_priors().tolist()
    overlap: list[dict[int, float]] = [{} for _ in gts]
    metric: list[dict[int, float]] = [{} for _ in gts]
    claims: list[list[int]] = [[] for _ in priors]
    for g, gt in enumerate(gts.tolist()):
        rank = {}
        for a, (x, y) in enumerate(priors):
            if gt[0] < x < gt[2] and gt[1] < y < gt[3]:
                overlap[g][a] = max(0.0, scalar_ciou(bboxes[a].tolist(), gt))
                metric[g][a] = float(scores[labels[g], a]) ** 0.5 * overlap[g][a] ** 6
                distance = math.dist((x, y), ((gt[0] + gt[2]) / 2, (gt[1] + gt[3]) / 2))
                rank[a] = (-metric[g][a], 0.0) if metric[g][a] > 0 else (0.0, distance)
        for a in sorted(rank, key=lambda a, rank=rank: rank[a])[:topk]:
            claims[a].append(g)

    owners = [own[0] if len(own) == 1 else -1 for own in claims]
    for a, own in enumerate(claims):
        if len(own) > 1:
            around = [g for g in range(len(gts)) if a in overlap[g]]
            owners[a] = max(around, key=lambda g, a=a: overlap[g][a])
    quality = [0.0] * len(priors)
    for g in range(len(gts)):
        mine = [a for a, owner in enumerate(owners) if owner == g]
        for a in mine:
            best_overlap = max(overlap[g][b] for b in mine)
            quality[a] = metric[g][a] * best_overlap / (max(metric[g][b] for b in mine) + 1e-9)
    return owners, quality


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('topk', [1, 4, 10])
def test_assign__equals_a_loop_over_all_pairs(topk: int, seed: int) -> None:
    scores, bboxes, labels, gts = random_scene([5, 0, 1, 9], seed)
    assigner = BatchTALAssigner(topk, min_gt_side=0)
    truth = pad_truth(labels, gts)
    result = assigner.assign(scores, bboxes, priors=make_priors(), truth=truth)
    for i in range(len(labels)):
        owners, quality = assign_image_slowly(scores[i], bboxes[i], labels[i], gts[i], topk)
        assert result.gt_index[i].tolist() == owners
        torch.testing.assert_close(result.quality[i], torch.tensor(quality), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize('topk', [4, 10])
@pytest.mark.parametrize('seed', range(4))
def test_assign__equals_the_loop_where_predictions_often_miss(seed: int, topk: int) -> None:
    scores, bboxes, labels, gts = random_scene([6, 9, 1], seed)
    # Most predictions are small and somewhere else, as in the first steps of a training.
    generator = torch.Generator().manual_seed(100 + seed)
    corner = 96 * torch.rand(3, bboxes.shape[1], 2, generator=generator)
    far = torch.cat([corner, corner + 6], dim=-1)
    bboxes = torch.where(torch.rand(3, bboxes.shape[1], 1, generator=generator) < 0.9, far, bboxes)
    gts = [own + 8 * torch.rand(len(own), 4, generator=generator) for own in gts]
    assigner = BatchTALAssigner(topk, min_gt_side=0, min_quality=0.05)
    truth = pad_truth(labels, gts)
    result = assigner.assign(scores, bboxes, priors=make_priors(), truth=truth)
    num_without_alignment = 0
    for i in range(len(labels)):
        owners, quality = assign_image_slowly(scores[i], bboxes[i], labels[i], gts[i], topk)
        assert result.gt_index[i].tolist() == owners
        expected = torch.tensor(
            [max(q, 0.05) if g >= 0 else 0 for q, g in zip(quality, owners, strict=True)]
        )
        torch.testing.assert_close(result.quality[i], expected, atol=1e-6, rtol=1e-4)
        num_without_alignment += sum(
            q == 0 and g >= 0 for q, g in zip(quality, owners, strict=True)
        )
    assert num_without_alignment > 0


def test_assign__priors_claimed_twice_occur_and_get_one_owner() -> None:
    scores, bboxes, labels, gts = random_scene([9])
    # Nine ground truths that lie on each other claim up to 90 of 189 priors.
    result = BatchTALAssigner(min_gt_side=0).assign(
        scores, bboxes, priors=make_priors(), truth=pad_truth(labels, gts)
    )
    num_owned = int((result.gt_index >= 0).sum())
    assert 9 < num_owned < 90


@pytest.mark.parametrize('block', [1, 3, 100], ids='{}_gts'.format)
def test_assign__blocks_of_ground_truths_change_nothing(block: int) -> None:
    scores, bboxes, labels, gts = random_scene([7, 10, 2], seed=4)
    truth, priors = pad_truth(labels, gts), make_priors()
    whole = BatchTALAssigner().assign(scores, bboxes, priors=priors, truth=truth)
    parts = BatchTALAssigner(max_block_pairs=block * 3 * len(priors)).assign(
        scores, bboxes, priors=priors, truth=truth
    )
    assert torch.equal(whole.gt_index, parts.gt_index)
    assert torch.equal(whole.quality, parts.quality)


@pytest.mark.parametrize('num_gts', [20, 200])
def test_assign__no_tensor_grows_with_the_number_of_objects(num_gts: int) -> None:
    # Every box holds every prior: the most pairs that there can be, 151,200 with 200 objects.
    scores, bboxes, labels, gts = random_scene([num_gts] * 4)
    gts = [torch.tensor([[-1.0, -1.0, 97.0, 97.0]]) + own / 1000 for own in gts]
    truth, priors = pad_truth(labels, gts), make_priors()
    assigner = BatchTALAssigner(max_block_pairs=2**12)
    with LargestTensor() as largest:
        assigner.assign(scores, bboxes, priors=priors, truth=truth)
    # The coordinates of each pair of a block.
    assert largest.numel <= 4 * 2**12


def peak_of_assignment(num_objects: int, half_side: float) -> int:
    """Bytes at the peak of an assignment of 16 images of 640 x 640 with random objects."""
    generator = torch.Generator().manual_seed(0)
    axes = [torch.arange(s / 2, 640, s) for s in (8, 16, 32)]
    priors = torch.cat([torch.cartesian_prod(axis, axis).flip(1) for axis in axes])
    scores = torch.rand(16, NUM_CLASSES, len(priors), generator=generator)
    bboxes = torch.cat([priors - 20, priors + 20], dim=1).repeat(16, 1, 1)
    centre = 640 * torch.rand(16, num_objects, 2, generator=generator)
    gts = list(torch.cat([centre - half_side, centre + half_side], dim=2))
    truth = pad_truth([torch.zeros(num_objects, dtype=torch.long)] * 16, gts)
    assigner = BatchTALAssigner()
    return peak_on_cpu(lambda: assigner.assign(scores, bboxes, priors=priors, truth=truth))


def peaks_of_assignment(cases: list[tuple[int, float]]) -> list[int]:
    return [peak_of_assignment(*case) for case in cases]


@pytest.mark.slow
def test_assign__peak_memory_of_a_batch_of_16_is_bounded() -> None:
    # All pairs of 500 objects at once: 67 million, 270 MB for each of a dozen tensors.
    cases = [(50, 20.0), (500, 20.0), (40, 900.0)]  # the last cover the whole image
    few, many, covering = in_fresh_process(peaks_of_assignment, cases)
    assert many < 1.5 * few
    assert max(many, covering) < 256 * 2**20


def test_assign__no_ground_truth_at_all() -> None:
    scores, bboxes, labels, gts = random_scene([0, 0])
    result = BatchTALAssigner().assign(
        scores, bboxes, priors=make_priors(), truth=pad_truth(labels, gts)
    )
    assert (result.gt_index == -1).all()
    assert (result.quality == 0).all()


def test_assign__padding_of_other_images_changes_nothing() -> None:
    scores, bboxes, labels, gts = random_scene([3, 8])
    assigner, priors = BatchTALAssigner(), make_priors()
    both = assigner.assign(scores, bboxes, priors=priors, truth=pad_truth(labels, gts))
    alone = assigner.assign(
        scores[:1], bboxes[:1], priors=priors, truth=pad_truth(labels[:1], gts[:1])
    )
    assert torch.equal(both.gt_index[0], alone.gt_index[0])
    torch.testing.assert_close(both.quality[0], alone.quality[0])


def one_object(box: list[float], **settings: float) -> tuple[list[int], Tensor]:
    """Assign one ground truth where every prior predicts a box of 16 around itself: owned priors, targets."""
    priors = make_priors()
    scores = torch.full((1, NUM_CLASSES, len(priors)), 0.25)
    bboxes = torch.cat([priors - 8, priors + 8], dim=1)[None]
    truth = pad_truth([torch.tensor([1])], [torch.tensor([box])])
    result = BatchTALAssigner(**settings).assign(scores, bboxes, priors=priors, truth=truth)
    owned = (result.gt_index[0] >= 0).nonzero()[:, 0]
    return owned.tolist(), result.quality[0, owned]


def test_assign__object_between_the_centres_needs_min_gt_side() -> None:
    box = [37.0, 37.0, 39.0, 39.0]  # the stride-8 centres around it are 36 and 44
    assert one_object(box, min_gt_side=0)[0] == []
    # Grown to 30 .. 46: the centres 36 and 44 of stride 8, 40 of stride 16.
    assert one_object(box, min_gt_side=16)[0] == [
        4 * 12 + 4,
        4 * 12 + 5,
        5 * 12 + 4,
        5 * 12 + 5,
        144 + 14,
    ]


def test_assign__soft_target_of_the_best_prior_is_its_overlap() -> None:
    # The box that prior (36, 36) predicts has overlap 1.
    owned, quality = one_object([28.0, 28.0, 44.0, 44.0])
    assert quality.max() == pytest.approx(1.0, abs=1e-5)
    assert owned[int(quality.argmax())] == 4 * 12 + 4


def test_assign__without_any_overlap_the_nearest_priors_are_taken_at_min_quality() -> None:
    priors = make_priors()
    far = torch.tensor([[500.0, 500.0, 510.0, 510.0]]).expand(len(priors), 4)[None]
    truth = pad_truth([torch.tensor([0])], [torch.tensor([[20.0, 20.0, 76.0, 76.0]])])
    scores = torch.full((1, NUM_CLASSES, len(priors)), 0.5)
    result = BatchTALAssigner(topk=5, min_quality=0.2).assign(
        scores, far, priors=priors, truth=truth
    )
    # The middle is (48, 48): the prior of stride 32 there, then the four of stride 8 around it.
    owned = (result.gt_index[0] >= 0).nonzero()[:, 0].tolist()
    assert owned == [5 * 12 + 5, 5 * 12 + 6, 6 * 12 + 5, 6 * 12 + 6, 144 + 36 + 4]
    assert result.quality[0, owned].tolist() == pytest.approx([0.2] * 5)
    assert result.quality.sum() == pytest.approx(1.0)


def test_assigner__topk_below_one() -> None:
    with pytest.raises(ValueError, match='topk=0'):
        BatchTALAssigner(0)


def test_assign__a_contested_prior_without_overlap_stays_with_a_truth_around_it() -> None:
    # Ground truth 0 is far away; 1 and 2 both hold the prior, and no prediction overlaps anything.
    truth = torch.tensor([[60.0, 60.0, 90.0, 90.0], [2.0, 2.0, 30.0, 30.0], [4.0, 4.0, 28.0, 28.0]])
    priors = torch.tensor([[16.0, 16.0]])
    assigner = BatchTALAssigner(topk=1, min_quality=0.1)
    result = assigner.assign(
        torch.full((1, NUM_CLASSES, 1), 0.01),
        torch.tensor([[[91.0, 0.0, 92.0, 1.0]]]),
        priors=priors,
        truth=pad_truth([torch.zeros(3, dtype=torch.long)], [truth]),
    )
    assert result.gt_index.tolist()[0][0] in (1, 2)
