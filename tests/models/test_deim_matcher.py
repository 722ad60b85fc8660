"""Matching of DEIM's queries against scipy, counting loops and hand-made cases."""

import warnings

import numpy as np
import pytest
import torch
from mmdet.models.task_modules import BBoxL1Cost, FocalLossCost, IoUCost
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmext.models.deim.losses import to_corners
from mmext.models.deim.matcher import DEIMMatcher, DEIMUnionMatcher, Pairs
from mmext.models.deim.outputs import ImageTargets
from mmext.models.deim.union import merge_pairs

from . import deim_slow_losses as slow
from .deim_outputs import CLASSES, random_boxes, random_targets

OUTPUTS, QUERIES = 3, 20
CHANGE = 5


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_heads(batch: int, *, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    logits = 2 * torch.randn(OUTPUTS, batch, QUERIES, classes)
    return logits, torch.stack([random_boxes(batch, QUERIES) for _ in range(OUTPUTS)])


def listed(pairs: Pairs, targets: list[ImageTargets], output: int) -> list[tuple[int, int, int]]:
    """Image, query and object of the image of each pair of an output."""
    starts = np.cumsum([0] + [len(own.labels) for own in targets])
    rows = zip(
        pairs.image.tolist(),
        pairs.query[output].tolist(),
        pairs.target[output].tolist(),
        strict=True,
    )
    return sorted((image, query, target - int(starts[image])) for image, query, target in rows)


def mmdet_cost(logits: Tensor, boxes: Tensor, target: ImageTargets, *, late: bool) -> np.ndarray:
    """Q x G from mmdet's parts."""
    pred = InstanceData(scores=logits, bboxes=to_corners(boxes))
    truth = InstanceData(labels=target.labels, bboxes=to_corners(target.boxes))
    if late:
        iou = bbox_overlaps(pred.bboxes, truth.bboxes, eps=1e-16)
        return (-logits.sigmoid()[:, target.labels] * iou**4).numpy()
    # mmdet's L1 cost reads corners and normalises with the image; here it gets numbers to compare as they are.
    plain = InstanceData(bboxes=boxes), InstanceData(bboxes=target.boxes)
    return (
        FocalLossCost(weight=2.0)(pred, truth)
        + BBoxL1Cost(weight=5.0, box_format='xyxy')(*plain, img_meta=dict(img_shape=(1, 1)))
        + IoUCost(weight=2.0, iou_mode='giou')(pred, truth)
    ).numpy()


@pytest.mark.parametrize('late', [False, True], ids=['early', 'late'])
@pytest.mark.parametrize('counts', [(3, 5), (0, 4), (1, 0)], ids=['both', 'first-empty', 'one'])
def test_matcher__equals_scipy_on_mmdets_costs(late: bool, counts: tuple[int, ...]) -> None:
    targets = random_targets(*counts)
    logits, boxes = random_heads(2)
    matches = DEIMMatcher(CHANGE)(logits, boxes, targets, epoch=CHANGE if late else CHANGE - 1)
    assert matches.num_boxes == sum(counts)
    for output in range(OUTPUTS):
        expected = []
        for image, target in enumerate(targets):
            if len(target.labels):
                cost = mmdet_cost(logits[output, image], boxes[output, image], target, late=late)
                rows, columns = linear_sum_assignment(cost)
                expected += [(image, *pair) for pair in zip(rows, columns, strict=True)]
        assert listed(matches.own, targets, output) == expected
        assert listed(matches.boxes, targets, output) == expected


@pytest.mark.parametrize('late', [False, True], ids=['early', 'late'])
def test_union_matcher__equals_counting_in_a_dictionary(late: bool) -> None:
    targets = random_targets(4, 0, 9)
    logits, boxes = random_heads(3)
    epoch = CHANGE if late else 0
    matches = DEIMUnionMatcher(CHANGE)(logits, boxes, targets, epoch=epoch)
    plain = DEIMMatcher(CHANGE)(logits, boxes, targets, epoch=epoch)
    own = [slow.match(*head, targets, late=late) for head in zip(logits, boxes, strict=True)]
    merged = slow.merge(own)
    assert len(merged) > 13  # the outputs disagree
    assert matches.num_boxes == len(merged)
    for output in range(OUTPUTS):
        assert listed(matches.own, targets, output) == own[output]
        assert listed(matches.own, targets, output) == listed(plain.own, targets, output)
        assert listed(matches.boxes, targets, output) == merged


def test_merge_pairs__by_hand() -> None:
    # Query 7 has object 2 twice; query 3 has 5 and 1 once each; query 9 stands alone.
    queries = np.array([7, 3, 7, 7, 3, 9])
    objects = np.array([0, 5, 2, 2, 1, 2])
    merged, targets = merge_pairs(queries, objects)
    assert merged.tolist() == [3, 7, 9]
    assert targets.tolist() == [5, 2, 2]


@pytest.mark.parametrize('num_objects', [QUERIES, 400], ids=['equal', 'more'])
def test_matcher__every_query_gets_an_object_where_there_are_enough(num_objects: int) -> None:
    targets = random_targets(num_objects)
    matches = DEIMUnionMatcher(CHANGE)(*random_heads(1), targets, epoch=0)
    assert matches.own.query.tolist() == [list(range(QUERIES))] * OUTPUTS
    assert all(len(set(own)) == QUERIES for own in matches.own.target.tolist())
    assert matches.num_boxes == QUERIES


def test_matcher__identical_objects_get_two_queries() -> None:
    (target,) = random_targets(1)
    twins = [ImageTargets(target.labels.repeat(2), target.boxes.repeat(2, 1))]
    matches = DEIMMatcher(CHANGE)(*random_heads(1), twins, epoch=0)
    assert all(len(set(own)) == 2 for own in matches.own.query.tolist())
    assert sorted(matches.own.target[0].tolist()) == [0, 1]


def test_matcher__no_objects_at_all() -> None:
    targets = random_targets(0, 0)
    matches = DEIMUnionMatcher(CHANGE)(*random_heads(2), targets, epoch=0)
    assert matches.own.query.shape == matches.boxes.target.shape == (OUTPUTS, 0)
    assert matches.num_boxes == 0


def test_matcher__one_class() -> None:
    targets = random_targets(3, classes=1)
    matches = DEIMMatcher(CHANGE)(*random_heads(1, classes=1), targets, epoch=CHANGE)
    assert matches.own.query.shape == (OUTPUTS, 3)


def test_matcher__saturated_logits_have_finite_costs() -> None:
    logits, boxes = random_heads(1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        DEIMMatcher(CHANGE)(1000 * logits, boxes, random_targets(3), epoch=0)


def test_matcher__one_transfer_for_all_outputs_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, to_cpu = [], Tensor.cpu
    monkeypatch.setattr(Tensor, 'cpu', lambda self: calls.append(self.numel()) or to_cpu(self))
    for name in ('item', 'tolist', 'numpy'):
        original = getattr(Tensor, name)

        def forbidden(self: Tensor, *args: object, _name: str = name, _own=original) -> object:
            assert _name == 'numpy', f'Tensor.{_name} waits for the device'
            return _own(self, *args)

        monkeypatch.setattr(Tensor, name, forbidden)
    DEIMUnionMatcher(CHANGE)(*random_heads(3), random_targets(2, 0, 5), epoch=0)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ('broken', 'cause'),
    [
        ('logits', r'logits of outputs \[1\]'),
        ('boxes', r'boxes of outputs \[1\]'),
        ('objects', 'boxes of objects'),
    ],
)
def test_matcher__broken_values_are_reported_once_with_their_cause(broken: str, cause: str) -> None:
    logits, boxes = random_heads(2)
    targets = random_targets(2, 3)
    place = dict(logits=logits[1, 0, 4], boxes=boxes[1, 0, 4], objects=targets[0].boxes[1])[broken]
    place[0] = float('nan')
    if broken == 'logits':
        place[:] = float('nan')
    matcher = DEIMMatcher(CHANGE)
    with pytest.warns(UserWarning, match=cause):
        matches = matcher(logits, boxes, targets, epoch=0)
    assert matches.own.query.shape == (OUTPUTS, 5)
    if broken != 'objects':
        pairs = listed(matches.own, targets, 1)
        assert (0, 4) not in {(image, query) for image, query, _ in pairs}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        matcher(logits, boxes, targets, epoch=CHANGE)


def test_matcher__broken_values_in_an_image_without_objects_are_reported() -> None:
    logits, boxes = random_heads(2)
    logits[2, 1] = float('inf')
    with pytest.warns(UserWarning, match=r'logits of outputs \[2\]'):
        DEIMMatcher(CHANGE)(logits, boxes, random_targets(2, 0), epoch=0)


def test_matcher__negative_settings_are_refused() -> None:
    with pytest.raises(ValueError, match='DEIMUnionMatcher.*no negative number'):
        DEIMUnionMatcher(CHANGE, l1_weight=-1.0)
