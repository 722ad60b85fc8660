"""Costs of matching queries to objects, and the Hungarian algorithm over outputs and images."""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from mmdet.models.task_modules import (
    ClassificationCost,
    CrossEntropyLossCost,
    DiceCost,
    HungarianAssigner,
)
from mmengine.structures import InstanceData

from mmext.models.common.matching import (
    class_cost,
    cross_entropy_cost,
    dice_cost,
    match_hungarian,
)

QUERIES, POINTS, CLASSES = 6, 50, 3


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize('num_objects', [1, 4, 500], ids=['one', 'few', 'many'])
def test_class_cost__equals_mmdet(num_objects: int) -> None:
    logits = torch.randn(QUERIES, CLASSES + 1)
    labels = torch.randint(CLASSES, (num_objects,))
    expected = ClassificationCost()(InstanceData(scores=logits), InstanceData(labels=labels))
    torch.testing.assert_close(class_cost(logits, labels), expected)


@pytest.mark.parametrize(
    ('cost', 'reference'),
    [
        (cross_entropy_cost, CrossEntropyLossCost(use_sigmoid=True)),
        (dice_cost, DiceCost(pred_act=True, eps=1.0)),
    ],
    ids=['cross-entropy', 'dice'],
)
@pytest.mark.parametrize('num_objects', [1, 4, 500], ids=['one', 'few', 'many'])
def test_mask_cost__equals_mmdet(cost: Callable, reference: Callable, num_objects: int) -> None:
    logits = 4 * torch.randn(2, QUERIES, POINTS)
    targets = torch.rand(num_objects, POINTS)
    ours = cost(logits, targets)
    for own, values in zip(ours, logits, strict=True):
        expected = reference(InstanceData(masks=values), InstanceData(masks=targets))
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('cost', [cross_entropy_cost, dice_cost])
def test_mask_cost__huge_logits_stay_finite(cost: Callable) -> None:
    logits = torch.tensor([1e4, -1e4])[:, None].expand(2, POINTS)
    assert cost(logits, torch.stack([torch.zeros(POINTS), torch.ones(POINTS)])).isfinite().all()


def test_match_hungarian__equals_mmdet_in_every_output_and_image() -> None:
    assigner = HungarianAssigner([dict(type='ClassificationCost')])
    all_logits = torch.randn(2, 4, QUERIES, CLASSES + 1)  # images x outputs x Q x (C + 1)
    all_labels = [torch.tensor([2, 0, 1]), torch.tensor([1, 1, 0, 2, 2, 2, 0, 1, 0])]
    matches = match_hungarian(
        [class_cost(own, labels) for own, labels in zip(all_logits, all_labels, strict=True)]
    )
    for logits, labels, match in zip(all_logits, all_labels, matches, strict=True):
        for output, own in enumerate(logits):
            assigned = assigner.assign(InstanceData(scores=own), InstanceData(labels=labels))
            mine = torch.zeros(QUERIES, dtype=torch.long)
            mine[match.query[match.output == output]] = match.gt[match.output == output] + 1
            # Objects of one class cost the same here, so only the classes that queries get are determined.
            assert torch.equal(mine > 0, assigned.gt_inds > 0)
            assert torch.equal(labels[mine[mine > 0] - 1], assigned.labels[mine > 0])


@pytest.mark.parametrize(('queries', 'objects'), [(3, 5), (5, 3), (4, 4)])
def test_match_hungarian__equals_trying_every_permutation(queries: int, objects: int) -> None:
    cost = torch.rand(2, queries, objects)
    (match,) = match_hungarian([cost])
    fewer, more = sorted((queries, objects))
    for output, own in enumerate(cost):
        chosen = match.output == output
        wide = own if queries <= objects else own.T
        least = min(
            sum(wide[row, column] for row, column in enumerate(order))
            for order in permutations(range(more), fewer)
        )
        assert chosen.sum() == fewer
        assert (
            len(set(match.query[chosen].tolist())) == len(set(match.gt[chosen].tolist())) == fewer
        )
        torch.testing.assert_close(own[match.query[chosen], match.gt[chosen]].sum(), least)


def test_match_hungarian__images_without_objects() -> None:
    costs = [torch.rand(3, QUERIES, objects) for objects in (0, 2, 0)]
    matches = match_hungarian(costs)
    assert [len(match.gt) for match in matches] == [0, 6, 0]
    assert matches[1].output.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(part.dtype == torch.long for match in matches for part in match)
    assert [len(match.gt) for match in match_hungarian(costs[::2])] == [0, 0]


def test_match_hungarian__broken_costs_are_avoided_and_warned_of() -> None:
    cost = torch.tensor([[[float('nan'), 0.9], [0.8, float('inf')], [float('-inf'), float('nan')]]])
    with pytest.warns(UserWarning, match='infinite or not a number'):
        (match,) = match_hungarian([cost])
    assert match.query.tolist() == [0, 1]
    assert match.gt.tolist() == [1, 0]


def test_match_hungarian__only_broken_costs_still_match() -> None:
    with pytest.warns(UserWarning, match='infinite or not a number'):
        (match,) = match_hungarian([torch.full((1, QUERIES, 4), float('nan'))])
    assert sorted(match.gt.tolist()) == [0, 1, 2, 3]
