"""Losses of DEIM against slow loops, mmdet and hand arithmetic, and on the inputs that break losses."""

import math
from collections.abc import Sequence

import pytest
import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from mmext.models.deim import criterion, losses
from mmext.models.deim.criterion import DEIMCriterion
from mmext.models.deim.distribution import make_bin_values
from mmext.models.deim.outputs import DecoderOutputs, ImageTargets
from mmext.structures.boxes import cxcywh_to_xyxy, generalized_iou

from . import deim_slow_losses as slow
from .deim_outputs import (
    NUM_BINS,
    SCALE,
    random_denoising,
    random_outputs,
    random_targets,
)

WEIGHTS = slow.WEIGHTS
PLAIN_WEIGHTS = {name: WEIGHTS[name] for name in ('mal', 'bbox', 'giou')}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def union_criterion() -> DEIMCriterion:
    return DEIMCriterion(dict(type='mmext.DEIMUnionMatcher', change_epoch=5), loss_weights=WEIGHTS)


def plain_criterion() -> DEIMCriterion:
    return DEIMCriterion(dict(type='mmext.DEIMMatcher', change_epoch=5), loss_weights=PLAIN_WEIGHTS)


def slow_losses(
    outputs: DecoderOutputs, targets: Sequence[ImageTargets], *, late: bool, union: bool
) -> dict[str, float]:
    """Every loss by loops; of the distributions only with the union, as the sizes of DEIMv2 do."""
    *aux, _ = range(len(outputs.layers))
    heads = {
        **{f'_aux_{i}': outputs.layers[i] for i in aux},
        '': outputs.layers[-1],
        '_pre': outputs.pre,
        '_enc_0': outputs.encoder,
    }
    own = {
        name: slow.match(head.logits, head.boxes, targets, late=late)
        for name, head in heads.items()
    }
    num_objects = max(sum(len(own.labels) for own in targets), 1)
    merged = slow.merge(list(own.values()))
    num_boxes = max(len(merged), 1) if union else num_objects
    boxes = {name: merged if union else pairs for name, pairs in own.items()}
    queries = outputs.pre.logits.shape[:2].numel()
    counts = (len(merged), queries - len(merged))
    expected = slow_head_losses(
        outputs, heads, (own, boxes), targets, (num_objects, num_boxes), counts, union=union
    )
    if outputs.denoising is None:
        return expected
    matches = outputs.denoising.matches
    pairs = [
        (image, q, g)
        for image, (qs, gs) in enumerate(
            zip(matches.query_indices, matches.object_indices, strict=True)
        )
        for q, g in zip(qs.tolist(), gs.tolist(), strict=True)
    ]
    heads = {f'_dn_{i}': layer for i, layer in enumerate(outputs.denoising.layers)}
    heads['_dn_pre'] = outputs.denoising.pre
    fixed = dict.fromkeys(heads, pairs)
    divisor = num_objects * matches.num_groups
    return expected | slow_head_losses(
        outputs, heads, (fixed, fixed), targets, (divisor, divisor), counts, union=union
    )


def slow_head_losses(
    outputs, heads, pairs, targets, divisors, counts, *, union
) -> dict[str, float]:
    expected = {}
    teacher = [head for head in heads.values() if hasattr(head, 'corners')][-1]
    for name, head in heads.items():
        own, boxes = pairs[0][name], pairs[1][name]
        expected[f'mal{name}'] = slow.mal(head.logits, head.boxes, own, targets) / divisors[0]
        distance, giou = slow.box_losses(head.boxes, boxes, targets)
        expected[f'bbox{name}'] = distance / divisors[1]
        expected[f'giou{name}'] = giou / divisors[1]
        if union and hasattr(head, 'corners'):
            fgl = slow.fgl(head, boxes, targets, outputs.bin_values, outputs.reg_scale)
            expected[f'fgl{name}'] = fgl / divisors[1]
            if head is not teacher:
                expected[f'ddf{name}'] = slow.ddf(head, teacher, boxes, targets, counts)
    return {f'loss_{key}': WEIGHTS[key.split('_')[0]] * value for key, value in expected.items()}


@pytest.mark.parametrize('late', [False, True], ids=['early', 'late'])
@pytest.mark.parametrize('union', [False, True], ids=['own', 'union'])
@pytest.mark.parametrize('counts', [(3, 5), (0, 2)], ids=['both', 'one-empty'])
def test_criterion__equals_slow_loops(late: bool, union: bool, counts: tuple[int, ...]) -> None:
    targets = random_targets(*counts)
    outputs = random_outputs(2, denoising=random_denoising(targets, groups=2, layers=3))
    criterion = union_criterion() if union else plain_criterion()
    values = criterion(outputs, targets, epoch=5 if late else 4)
    expected = slow_losses(outputs, targets, late=late, union=union)
    assert set(values) == set(expected)
    for name, value in values.items():
        assert value.item() == pytest.approx(expected[name], rel=2e-5, abs=1e-6), name


def test_criterion__without_objects_only_background_is_learned() -> None:
    targets = random_targets(0, 0)
    outputs = random_outputs(2, denoising=random_denoising(targets, groups=1, layers=3))
    values = union_criterion()(outputs, targets, epoch=0)
    expected = slow_losses(outputs, targets, late=False, union=True)
    assert set(values) == set(expected)
    for name, value in values.items():
        assert value.item() == pytest.approx(expected[name], rel=2e-5), name
    sum(values.values()).backward()
    for head in (*outputs.layers, outputs.pre, outputs.encoder):
        assert head.logits.grad.abs().sum() > 0
        assert not head.boxes.grad.any()


@pytest.mark.parametrize('counts', [(40, 1), (12, 12)], ids=['too-many', 'exactly'])
def test_criterion__as_many_objects_as_queries_or_more(counts: tuple[int, ...]) -> None:
    targets = random_targets(*counts)
    outputs = random_outputs(2)
    values = union_criterion()(outputs, targets, epoch=0)
    expected = slow_losses(outputs, targets, late=False, union=True)
    for name, value in values.items():
        assert value.item() == pytest.approx(expected[name], rel=2e-5), name


def test_criterion__one_class_and_identical_objects() -> None:
    (target,) = random_targets(1, classes=1)
    targets = [ImageTargets(target.labels.repeat(2), target.boxes.repeat(2, 1))]
    outputs = random_outputs(1, classes=1)
    values = union_criterion()(outputs, targets, epoch=9)
    expected = slow_losses(outputs, targets, late=True, union=True)
    for name, value in values.items():
        assert value.item() == pytest.approx(expected[name], rel=2e-5, abs=1e-6), name


def half_outputs(outputs: DecoderOutputs, dtype: torch.dtype) -> DecoderOutputs:
    def cast(own):
        return type(own)(*(value.detach().to(dtype) for value in own))

    return outputs._replace(
        layers=tuple(cast(layer) for layer in outputs.layers),
        pre=cast(outputs.pre),
        encoder=cast(outputs.encoder),
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_criterion__half_precision_is_scored_in_float32(dtype: torch.dtype) -> None:
    targets = random_targets(3, 1)
    half = half_outputs(random_outputs(2), dtype)
    with torch.autocast('cpu', torch.bfloat16):
        values = union_criterion()(half, targets, epoch=0)
    expected = union_criterion()(half_outputs(half, torch.float32), targets, epoch=0)
    assert all(value.dtype == torch.float32 for value in values.values())
    assert values == expected


def test_criterion__teacher_and_counterparts_get_no_gradient() -> None:
    targets = random_targets(2, 3)
    outputs = random_outputs(2)
    values = union_criterion()(outputs, targets, epoch=0)
    taught = sum(value for name, value in values.items() if 'ddf' in name)
    taught.backward()
    *students, teacher = outputs.layers
    assert all(student.corners.grad.abs().sum() > 0 for student in students)
    # The weights of the terms carry no gradient either.
    assert teacher.corners.grad is None or not teacher.corners.grad.any()
    for layer in outputs.layers:
        assert layer.logits.grad is None or not layer.logits.grad.any()
        assert layer.boxes.grad is None or not layer.boxes.grad.any()


def test_criterion__one_decoder_layer_has_nobody_to_teach() -> None:
    targets = random_targets(2)
    values = union_criterion()(random_outputs(1, layers=1), targets, epoch=0)
    assert not any('ddf' in name for name in values)
    assert 'loss_fgl' in values


def test_criterion__broken_numbers_give_finite_losses_and_a_warning() -> None:
    targets = random_targets(2, 3)
    outputs = random_outputs(2)
    with torch.no_grad():
        outputs.layers[1].boxes[0] = float('nan')
        outputs.layers[1].corners[0, 0] = float('inf')
    with pytest.warns(UserWarning, match=r'boxes of outputs \[1\] '):
        values = union_criterion()(outputs, targets, epoch=0)
    assert all(value.isfinite() for value in values.values())


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(loss_weights=dict(mal=1.0, bbox=5.0)), 'mal, bbox'),
        (dict(loss_weights=WEIGHTS | dict(vfl=1.0)), 'mal, bbox'),
        (dict(loss_weights=WEIGHTS | dict(mal=-1.0)), 'at least 0'),
        (dict(loss_weights=WEIGHTS, temperature=0.0), 'temperature above 0'),
    ],
    ids=['missing', 'unknown', 'negative', 'temperature'],
)
def test_criterion__wrong_settings_are_explained(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DEIMCriterion(dict(type='mmext.DEIMMatcher', change_epoch=0), **settings)


def test_criterion__outputs_of_inference_are_refused() -> None:
    outputs = random_outputs(1)._replace(pre=None, encoder=None)
    with pytest.raises(ValueError, match='training mode'):
        union_criterion()(outputs, random_targets(1), epoch=0)


def test_generalized_iou__equals_mmdet_on_small_and_large_boxes() -> None:
    boxes, others = (cxcywh_to_xyxy(torch.rand(2, 50, 4)) for _ in range(2))
    expected = bbox_overlaps(boxes, others, mode='giou', is_aligned=True, eps=1e-16)
    torch.testing.assert_close(generalized_iou(boxes, others, eps=1e-16), expected)
    torch.testing.assert_close(
        generalized_iou(300 * boxes, 300 * others), expected, rtol=1e-4, atol=1e-6
    )


def test_giou_loss__negative_sizes_are_empty_boxes() -> None:
    box = torch.tensor([[0.5, 0.5, -0.2, 0.3]])
    truth = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    torch.testing.assert_close(losses.giou_loss(box, truth), torch.ones(1))


def test_giou_loss__two_empty_boxes_stay_finite() -> None:
    box = torch.tensor([[0.5, 0.5, 0.0, 0.0]], requires_grad=True)
    value = losses.giou_loss(box, box.detach())
    value.sum().backward()
    assert value.isfinite().all()
    assert box.grad.isfinite().all()


def test_matchability_aware_loss__by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    value = losses.matchability_aware_loss(logits, torch.tensor([1]), torch.tensor([0.25]))
    # Target 1/8 at the second class; weight (1/2)^1.5 at the first.
    positive = -(0.125 * math.log(0.75) + 0.875 * math.log(0.25))
    expected = positive + 0.5**1.5 * math.log(2)
    torch.testing.assert_close(value, torch.tensor([expected]))


def test_matchability_aware_loss__its_weight_carries_no_gradient() -> None:
    logits = torch.zeros(1, 1, requires_grad=True)
    losses.matchability_aware_loss(logits, torch.tensor([1]), torch.zeros(1)).sum().backward()
    # d/dx of -log(1 - p) is p.
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5**1.5 * 0.5]]))


def edge_position(distance: float) -> Tensor:
    """Position among the bins of the left edge of a box at a distance of the reference's left edge."""
    unit = 0.2 / SCALE
    x1 = 0.5 - 0.1 - distance * unit
    truth = torch.tensor([(x1 + 0.9) / 2, 0.5, 0.9 - x1, 0.2])
    bins = make_bin_values(NUM_BINS, SCALE)
    refs = torch.tensor([0.5, 0.5, 0.2, 0.2])
    edges = losses.locate_edges(truth, refs, bin_values=bins, reg_scale=SCALE)
    return (edges.left + edges.right_weight)[0]


@pytest.mark.parametrize(
    ('distance', 'position'),
    [(-5.0, 0.0), (-3.0, 0.5), (0.0, 16.0), (0.0380, 16.5), (3.0, 31.5), (4.5, 32.0)],
    ids=['below', 'outer-bin', 'reference', 'inner-bin', 'upper-bin', 'above'],
)
def test_locate_edges__by_hand(distance: float, position: float) -> None:
    # For s = 4 the bins are -4, -2, ..., 0, 0.0760, ..., 2, 4.
    torch.testing.assert_close(edge_position(distance), torch.tensor(position), atol=1e-3, rtol=0)


def test_fine_grained_loss__is_least_where_the_target_says() -> None:
    edges = losses.BinTargets(torch.full((1, 4), 7), torch.full((1, 4), 0.25))
    corners = torch.full((1, 4, NUM_BINS), -30.0)
    corners[..., 7], corners[..., 8] = math.log(0.75), math.log(0.25)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(
        losses.fine_grained_loss(corners, edges), torch.tensor([4 * entropy])
    )


def test_decoupled_mean__by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    matched = torch.tensor([[True, False, False, False]])
    mean = losses.decoupled_mean(values, matched, counts=(1, 9))
    torch.testing.assert_close(mean, torch.tensor((1 * 1 + 3 * 11 / 3) / 4))


def test_criterion__divisors_are_means_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = random_targets(3, 5)
    outputs = random_outputs(2, denoising=random_denoising(targets, groups=2, layers=3))
    alone = union_criterion()(outputs, targets, epoch=0)
    # As if another process had three times as many objects and pairs as this one.
    monkeypatch.setattr(criterion, 'reduce_mean', lambda sizes: 2 * sizes)
    together = union_criterion()(outputs, targets, epoch=0)
    for name, value in alone.items():
        share = 1.0 if 'ddf' in name else 0.5
        torch.testing.assert_close(together[name], share * value, msg=name)


def test_criterion__a_process_without_objects_divides_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reduced = []
    monkeypatch.setattr(
        criterion, 'reduce_mean', lambda sizes: reduced.append(sizes.tolist()) or sizes
    )
    values = union_criterion()(random_outputs(1), random_targets(0), epoch=0)
    assert reduced == [[0.0, 0.0]]
    assert values['loss_mal'] > 0
    assert values['loss_bbox'] == 0
