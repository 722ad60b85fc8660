"""Losses of the query decoder against mmdet's Mask2Former head, and on the inputs that break losses."""

from collections.abc import Callable

import pytest
import torch
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.losses import CrossEntropyLoss, DiceLoss
from mmdet.models.task_modules import HungarianAssigner, MaskPseudoSampler
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.models.common import query_criterion
from mmext.models.common.query_criterion import QueryCriterion
from mmext.models.common.query_outputs import QueryOutputs, predict_masks

QUERIES, CLASSES, DIMS, SIZE = 6, 3, 8, 16
NUM_POINTS = 200


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `torch.rand` give the same points for every mask, by their number alone."""

    def rand(*size: int, device: object = None) -> Tensor:
        size = size[0] if isinstance(size[0], tuple) else size
        points = torch.empty(size[-2:]).uniform_(generator=torch.Generator().manual_seed(size[-2]))
        return points.expand(size).clone()

    monkeypatch.setattr(torch, 'rand', rand)


def random_outputs(num_outputs: int = 3, batch: int = 2, queries: int = QUERIES) -> QueryOutputs:
    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, requires_grad=True)

    return QueryOutputs(
        [leaf(batch, queries, CLASSES + 1) for _ in range(num_outputs)],
        [leaf(batch, queries, DIMS) for _ in range(num_outputs)],
        leaf(batch, queries, DIMS),
        leaf(batch, DIMS, SIZE, SIZE),
    )


def random_truth(*counts: int) -> tuple[list[Tensor], list[Tensor]]:
    """Labels and masks at four times the size of the mask features: discs, which may leave the image."""
    side = 4 * SIZE
    rows, columns = torch.arange(side)[:, None], torch.arange(side)
    labels, masks = [], []
    for count in counts:
        centre, radius = torch.randint(side, (2, count, 1, 1)), torch.randint(4, 30, (count, 1, 1))
        distance = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
        labels.append(torch.randint(CLASSES, (count,)))
        masks.append((distance < radius**2).to(torch.uint8))
    return labels, masks


def mmdet_losses(outputs: QueryOutputs, labels: list[Tensor], masks: list[Tensor]) -> dict:
    """What `Mask2FormerHead` computes; only its losses are set up, not its network."""
    head = Mask2FormerHead.__new__(Mask2FormerHead)
    nn.Module.__init__(head)
    head.num_classes, head.num_queries = CLASSES, outputs.class_logits[0].shape[1]
    head.num_points, head.oversample_ratio, head.importance_sample_ratio = NUM_POINTS, 3.0, 0.75
    head.class_weight = [1.0] * CLASSES + [0.1]
    head.assigner = HungarianAssigner(
        [
            dict(type='ClassificationCost', weight=2.0),
            dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
            dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0),
        ]
    )
    head.sampler = MaskPseudoSampler()
    head.loss_cls = CrossEntropyLoss(loss_weight=2.0, class_weight=head.class_weight)
    head.loss_mask = CrossEntropyLoss(use_sigmoid=True, loss_weight=5.0)
    head.loss_dice = DiceLoss(naive_dice=True, eps=1.0, loss_weight=5.0)
    return head.loss_by_feat(
        outputs.class_logits,
        [predict_masks(own, outputs.mask_features) for own in outputs.mask_embeddings],
        [InstanceData(labels=own, masks=m) for own, m in zip(labels, masks, strict=True)],
        [{}] * len(labels),
    )


@pytest.mark.parametrize('counts', [(1, 3), (6, 2), (9, 12)], ids=['few', 'as-many', 'too-many'])
@pytest.mark.usefixtures('same_points')
def test_criterion__equals_mask2former_head(counts: tuple[int, int]) -> None:
    outputs, truth = random_outputs(), random_truth(*counts)
    losses = QueryCriterion(CLASSES, num_points=NUM_POINTS)(outputs, *truth)
    expected = mmdet_losses(outputs, *truth)
    assert set(losses) == {name.replace('loss_', 'loss_q_') for name in expected}
    for name, value in expected.items():
        torch.testing.assert_close(
            losses[name.replace('loss_', 'loss_q_')], value.squeeze(), atol=1e-5, rtol=1e-5
        )


@pytest.mark.usefixtures('same_points')
def test_criterion__gradients_equal_mask2former_head() -> None:
    outputs, truth = random_outputs(), random_truth(2, 3)
    leaves = [*outputs.class_logits, *outputs.mask_embeddings, outputs.mask_features]
    ours = QueryCriterion(CLASSES, num_points=NUM_POINTS)(outputs, *truth)
    others = mmdet_losses(outputs, *truth)
    torch.testing.assert_close(
        torch.autograd.grad(sum(ours.values()), leaves),
        torch.autograd.grad(sum(others.values()), leaves),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize('counts', [(0, 0), (0, 3), (1, 0), (500, 1)], ids=str)
def test_criterion__any_number_of_objects(counts: tuple[int, int]) -> None:
    outputs = random_outputs()
    losses = QueryCriterion(CLASSES, num_points=NUM_POINTS)(outputs, *random_truth(*counts))
    sum(losses.values()).backward()
    for leaf in [*outputs.class_logits, *outputs.mask_embeddings, outputs.mask_features]:
        assert leaf.grad.isfinite().all()
    assert all(value.isfinite() for value in losses.values())
    has_masks = sum(counts) > 0
    assert all((value > 0) == has_masks for name, value in losses.items() if 'cls' not in name)
    assert bool(outputs.mask_features.grad.any()) == has_masks


def test_criterion__without_objects_every_query_is_no_object() -> None:
    outputs = random_outputs(num_outputs=1)
    losses = QueryCriterion(CLASSES, num_points=NUM_POINTS)(outputs, *random_truth(0, 0))
    probability = outputs.class_logits[0].softmax(-1)[..., -1]
    torch.testing.assert_close(losses['loss_q_cls'], -2 * probability.log().mean())


@pytest.mark.usefixtures('same_points')
def test_criterion__empty_image_adds_nothing_to_the_mask_losses() -> None:
    outputs, (labels, masks) = random_outputs(), random_truth(3, 0)
    criterion = QueryCriterion(CLASSES, num_points=NUM_POINTS)
    both = criterion(outputs, labels, masks)
    first = QueryOutputs(
        [own[:1] for own in outputs.class_logits],
        [own[:1] for own in outputs.mask_embeddings],
        outputs.query_embeddings[:1],
        outputs.mask_features[:1],
    )
    single = criterion(first, labels[:1], masks[:1])
    for name in ('loss_q_mask', 'loss_q_dice', 'd0.loss_q_mask'):
        torch.testing.assert_close(both[name], single[name])


def test_criterion__perfect_prediction_by_hand() -> None:
    # Halves of an image; one channel each, so an embedding of one channel is one half's mask.
    side = 64
    left = (torch.arange(side) < side // 2).expand(side, side)
    masks = torch.stack([left, ~left])
    features = 8 * (2 * masks[None].float() - 1)
    logits = torch.full((1, 3, CLASSES + 1), -50.0)
    logits[0, [0, 1, 2], [CLASSES, 2, 1]] = 50.0
    embeddings = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    outputs = QueryOutputs([logits], [embeddings], embeddings, features)
    criterion = QueryCriterion(CLASSES, num_points=2000, importance_ratio=0.0)
    losses = criterion(outputs, [torch.tensor([1, 2])], [masks.to(torch.uint8)])
    assert losses['loss_q_cls'] < 1e-6
    # Five points in a hundred lie within half a pixel of the middle or the border, where neither logit nor target
    # is all or nothing; softplus(8 t) - 8 t^2 is at most 2.1 there. Elsewhere the loss is softplus(-8).
    assert losses['loss_q_mask'] < 5 * 0.05 * 2.1
    assert losses['loss_q_dice'] < 5 * 0.05


@pytest.mark.usefixtures('same_points')
def test_criterion__known_pairs_are_not_matched_again() -> None:
    outputs, (labels, masks) = random_outputs(), random_truth(2, 2)
    pairs = [(torch.tensor([4, 1]), torch.tensor([0, 1])), (torch.tensor([5]), torch.tensor([1]))]
    criterion = QueryCriterion(CLASSES, num_points=NUM_POINTS)
    losses = criterion(outputs, labels, masks, pairs=pairs)
    targets = torch.full((2, QUERIES), CLASSES)
    targets[0, 4], targets[0, 1], targets[1, 5] = labels[0][0], labels[0][1], labels[1][1]
    for prefix, logits in zip(('d0.', 'd1.', ''), outputs.class_logits, strict=True):
        expected = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), weight=torch.tensor([1.0, 1.0, 1.0, 0.1])
        )
        torch.testing.assert_close(losses[f'{prefix}loss_q_cls'], 2 * expected)
    # Pairs that the matching would have found give the losses of the matching.
    matched = [
        (own.query[:2], own.gt[:2]) for own in match_first_output(criterion, outputs, labels, masks)
    ]
    known = criterion(outputs, labels, masks, pairs=matched)
    for name, value in criterion(outputs, labels, masks).items():
        if name.startswith('d0.'):
            torch.testing.assert_close(known[name], value)


def normalised_boxes(masks: Tensor) -> Tensor:
    """Boxes (G, 4) in [0, 1] around masks (G, side, side), none of them empty."""
    boxes = []
    for mask in masks:
        y, x = mask.nonzero(as_tuple=True)
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return torch.tensor(boxes) / masks.shape[1]


def sample_slowly(image: Tensor, points: Tensor) -> Tensor:
    """Values of an image (h, w) at points (P, 2)."""
    grid = 2 * points[None, None] - 1
    return nn.functional.grid_sample(image[None, None], grid, align_corners=False)[0, 0, 0]


def slow_mask_losses(outputs: QueryOutputs, masks: list, boxes: list, pairs: list) -> dict:
    """Cross entropy and Dice of 120 points by Mask2Former's rule and 80 in boxes, pair by pair."""
    losses: dict[str, Tensor] = {}
    num_pairs = sum(len(query) for query, _ in pairs)
    for index, embeddings in enumerate(outputs.mask_embeddings):
        prefix = f'd{index}.' if index + 1 < len(outputs.mask_embeddings) else ''
        logits = predict_masks(embeddings, outputs.mask_features)
        terms = []
        for image, pair in enumerate(pairs):
            for query, gt in zip(*(part.tolist() for part in pair), strict=True):
                mask = logits[image, query]
                candidates = torch.rand(360, 2)
                doubt = sample_slowly(mask, candidates).abs()
                x1, y1, x2, y2 = boxes[image][gt].tolist()
                centre, half = ((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2)
                longer = [
                    [max(c - 1.5 * h, 0), min(c + 1.5 * h, 1)]
                    for c, h in zip(centre, half, strict=True)
                ]
                first, last = torch.tensor(longer).T
                inside = first + (last - first) * torch.rand(80, 2)
                points = torch.cat([candidates[doubt.argsort()[:90]], torch.rand(30, 2), inside])
                pred = sample_slowly(mask, points)
                target = sample_slowly(masks[image][gt].float(), points)
                entropy = nn.functional.binary_cross_entropy_with_logits(pred, target)
                share = pred.sigmoid()
                dice = 1 - (2 * (share * target).sum() + 1) / (share.sum() + target.sum() + 1)
                terms.append(torch.stack([entropy, dice]))
        total = 5 * torch.stack(terms).sum(dim=0) / num_pairs
        losses |= {f'{prefix}loss_q_mask': total[0], f'{prefix}loss_q_dice': total[1]}
    return losses


@pytest.mark.usefixtures('same_points')
def test_box_points__equal_a_slow_loop_with_its_gradients() -> None:
    outputs, (labels, masks) = random_outputs(), random_truth(3, 2)
    boxes = [normalised_boxes(own) for own in masks]
    # The first object of the first image has two queries, the second has none.
    pairs = [(torch.tensor([4, 1, 0]), torch.tensor([0, 2, 0]))]
    pairs.append((torch.tensor([5, 3]), torch.tensor([1, 0])))
    criterion = QueryCriterion(CLASSES, num_points=NUM_POINTS, box_point_ratio=0.4)
    losses = criterion(outputs, labels, masks, pairs=pairs, bboxes=boxes)
    expected = slow_mask_losses(outputs, masks, boxes, pairs)
    assert len(expected) == 6
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-5, rtol=1e-5)
    leaves = [*outputs.mask_embeddings, outputs.mask_features]
    torch.testing.assert_close(
        torch.autograd.grad(sum(losses[name] for name in expected), leaves),
        torch.autograd.grad(sum(expected.values()), leaves),
        atol=1e-5,
        rtol=1e-4,
    )


def test_box_points__none_without_a_ratio() -> None:
    outputs, (labels, masks) = random_outputs(), random_truth(3, 2)
    pairs = [(torch.tensor([4, 1]), torch.tensor([0, 1])), (torch.tensor([5]), torch.tensor([1]))]
    criterion = QueryCriterion(CLASSES, num_points=NUM_POINTS)
    found = []
    for boxes in (None, [normalised_boxes(own) for own in masks]):
        torch.manual_seed(1)
        found.append(criterion(outputs, labels, masks, pairs=pairs, bboxes=boxes))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_box_points__images_without_pairs() -> None:
    outputs, (labels, masks) = random_outputs(), random_truth(0, 2)
    nobody = torch.zeros(0, dtype=torch.int64)
    criterion = QueryCriterion(CLASSES, num_points=NUM_POINTS, box_point_ratio=0.5)
    boxes = [torch.zeros(0, 4), normalised_boxes(masks[1])]
    losses = criterion(outputs, labels, masks, pairs=[(nobody, nobody)] * 2, bboxes=boxes)
    assert all((value > 0) == ('cls' in name) for name, value in losses.items())
    sum(losses.values()).backward()
    assert outputs.mask_features.grad is not None


def test_box_points__take_pairs_and_a_ratio_below_one() -> None:
    outputs, (labels, masks) = random_outputs(), random_truth(1, 1)
    criterion = QueryCriterion(CLASSES, num_points=NUM_POINTS, box_point_ratio=0.5)
    with pytest.raises(ValueError, match='got no pairs or no boxes'):
        criterion(outputs, labels, masks)
    with pytest.raises(ValueError, match='got box_point_ratio=1.0'):
        QueryCriterion(CLASSES, box_point_ratio=1.0)


def match_first_output(
    criterion: QueryCriterion, outputs: QueryOutputs, labels: list[Tensor], masks: list[Tensor]
) -> list:
    return criterion._match(
        torch.stack(outputs.class_logits[:1]),
        torch.stack(outputs.mask_embeddings[:1]),
        outputs.mask_features,
        labels,
        masks,
    )


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures('same_points')
def test_criterion__half_precision_outputs_give_float32_losses(dtype: torch.dtype) -> None:
    outputs, truth = random_outputs(), random_truth(2, 3)
    half = QueryOutputs(
        *([x.to(dtype) for x in p] if isinstance(p, list) else p.to(dtype) for p in outputs)
    )
    same = QueryOutputs(
        *([x.float() for x in p] if isinstance(p, list) else p.float() for p in half)
    )
    criterion = QueryCriterion(CLASSES, num_points=NUM_POINTS)
    with torch.autocast('cpu', torch.bfloat16):
        losses = criterion(half, *truth)
    for name, value in criterion(same, *truth).items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], value)


def test_criterion__outputs_that_are_not_numbers_still_match() -> None:
    outputs = random_outputs()
    outputs.class_logits[1].data[0, 0] = float('nan')
    with pytest.warns(UserWarning, match='infinite or not a number'):
        losses = QueryCriterion(CLASSES, num_points=NUM_POINTS)(outputs, *random_truth(8, 2))
    assert losses['loss_q_cls'].isfinite()
    assert losses['d1.loss_q_cls'].isnan()


@pytest.mark.parametrize(
    'make',
    [
        lambda: QueryCriterion(CLASSES, no_object_weight=0.0),
        lambda: QueryCriterion(CLASSES, cost_weights=(1.0, 2.0)),
        lambda: QueryCriterion(CLASSES, loss_weights=(1.0,)),
    ],
    ids=['no-object', 'cost', 'loss'],
)
def test_criterion__range_errors(make: Callable) -> None:
    with pytest.raises(ValueError, match='expected three numbers'):
        make()


@pytest.mark.usefixtures('same_points')
def test_criterion__divides_masks_by_the_objects_of_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs, truth = random_outputs(), random_truth(1, 3)
    criterion = QueryCriterion(CLASSES, num_points=NUM_POINTS)
    alone = criterion(outputs, *truth)
    # Another process with twice as many objects: 6 on average instead of 4.
    monkeypatch.setattr(query_criterion, 'reduce_mean', lambda own: (own + 2 * own) / 2)
    among_two = criterion(outputs, *truth)
    for name, value in alone.items():
        torch.testing.assert_close(among_two[name], value * (1 if 'cls' in name else 4 / 6))
