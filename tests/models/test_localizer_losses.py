"""The loss of the localizer: its shares, class weights and box losses, by hand."""

import math

import mmdet.models  # noqa: F401  (registers its losses)
import pytest
import torch
from torch.nn import functional

from mmext.models.localizer import LocalizationLoss
from mmext.models.localizer.losses import balanced_weights
from mmext.models.localizer.outputs import Localization, LocalizerTargets

MSE = dict(type='mmdet.MSELoss', loss_weight=1.0)


def targets(*known: bool) -> LocalizerTargets:
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.8], [0.3, 0.3, 0.9, 0.4], [0.0, 0.0, 1.0, 1.0]])
    return LocalizerTargets(boxes, torch.tensor([2, 0, 1]), torch.tensor(known))


def outputs() -> Localization:
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    boxes = torch.tensor([[0.2, 0.2, 0.5, 0.7], [0.3, 0.1, 0.8, 0.5], [0.5, 0.5, 0.6, 0.6]])
    return Localization(logits, boxes.requires_grad_())


def test_balanced_weights__every_class_counts_the_same():
    counts = [17, 208, 39]
    weights = balanced_weights(counts)
    assert [w * n for w, n in zip(weights, counts, strict=True)] == pytest.approx([88.0] * 3)


def test_balanced_weights__a_class_that_does_not_occur():
    assert balanced_weights([3, 0, 1]) == pytest.approx([4 / 6, 0, 2])


def test_balanced_weights__no_images_is_an_error():
    with pytest.raises(ValueError, match='at least one labelled image'):
        balanced_weights([0, 0])


def test_loss__shares_of_class_and_box_by_hand():
    out, goal = outputs(), targets(True, True, True)
    losses = LocalizationLoss(3, MSE, alpha=0.7)(out, goal)
    log_prob = [
        value - math.log(sum(math.exp(v) for v in row))
        for row, label in zip(out.class_logits.tolist(), [2, 0, 1], strict=True)
        for value in [row[label]]
    ]
    squares = (out.boxes - goal.boxes).square().flatten().tolist()
    assert losses['loss_class'].item() == pytest.approx(0.3 * -sum(log_prob) / 3, rel=1e-5)
    assert losses['loss_box'].item() == pytest.approx(0.7 * sum(squares) / 12, rel=1e-5)


def overlaps(found: list[float], true: list[float]) -> tuple[float, float]:
    """IoU, and the share of the hull that the union leaves empty."""
    sides = [max(min(found[i + 2], true[i + 2]) - max(found[i], true[i]), 0.0) for i in (0, 1)]
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (found, true)]
    common, union = sides[0] * sides[1], sum(areas) - sides[0] * sides[1]
    hull = [max(found[i + 2], true[i + 2]) - min(found[i], true[i]) for i in (0, 1)]
    return common / union, 1 - union / (hull[0] * hull[1])


@pytest.mark.parametrize(
    ('kind', 'of_box'),
    [
        (dict(type='mmdet.SmoothL1Loss', beta=0.1), None),
        (dict(type='mmdet.IoULoss', mode='linear'), lambda iou, empty: 1 - iou),
        (dict(type='mmdet.GIoULoss'), lambda iou, empty: 1 - iou + empty),
    ],
    ids=['smooth-l1', 'iou', 'giou'],
)
def test_loss__box_losses_by_hand(kind, of_box):
    out, goal = outputs(), targets(True, True, True)
    pairs = list(zip(out.boxes.tolist(), goal.boxes.tolist(), strict=True))
    if of_box is None:
        differences = [abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True)]
        values = [d * d / 0.2 if d < 0.1 else d - 0.05 for d in differences]
    else:
        values = [of_box(*overlaps(*pair)) for pair in pairs]
    loss = LocalizationLoss(3, kind, alpha=0.5)(out, goal)['loss_box']
    assert loss.item() == pytest.approx(0.5 * sum(values) / len(values), rel=1e-4)


@pytest.mark.parametrize(
    'name', ['mmdet.MSELoss', 'mmdet.SmoothL1Loss', 'mmdet.L1Loss', 'mmdet.IoULoss']
    + ['mmdet.GIoULoss', 'mmdet.DIoULoss', 'mmdet.CIoULoss', 'mmext.CIoULoss'],
)  # fmt: skip
def test_loss__every_box_loss_is_least_at_the_truth(name):
    loss, goal = LocalizationLoss(3, dict(type=name)), targets(True, True, True)
    wrong = outputs()
    right = Localization(wrong.class_logits, goal.boxes.clone().requires_grad_())
    at_truth, beside = (loss(out, goal)['loss_box'] for out in (right, wrong))
    beside.backward()
    assert abs(at_truth.item()) < 1e-3 < beside.item()
    assert (wrong.boxes.grad.abs().sum(dim=1) > 0).all() and wrong.boxes.grad.isfinite().all()


def test_loss__class_weights_given_and_computed_agree():
    out, goal = outputs(), targets(True, True, True)
    computed = LocalizationLoss(3, MSE, class_weight='balanced')
    computed.set_class_counts([17, 208, 39])
    given = LocalizationLoss(3, MSE, class_weight=[0.5, 3.0, 1.0])
    given.set_class_counts([1, 1, 1])  # without effect
    for loss, weight in ((computed, balanced_weights([17, 208, 39])), (given, [0.5, 3.0, 1.0])):
        expected = functional.cross_entropy(out.class_logits, goal.labels, torch.tensor(weight))
        torch.testing.assert_close(loss(out, goal)['loss_class'], 0.3 * expected)
        assert 'class_weight' not in loss.state_dict()


def test_loss__images_without_an_object_teach_nothing():
    loss = LocalizationLoss(3, MSE)
    out = outputs()
    some = loss(out, targets(True, False, True))
    first_and_last = Localization(out.class_logits[[0, 2]], out.boxes[[0, 2]])
    goal = targets(True, True, True)
    alone = loss(
        first_and_last, LocalizerTargets(goal.boxes[[0, 2]], goal.labels[[0, 2]], goal.known[:2])
    )
    for name in some:
        torch.testing.assert_close(some[name], alone[name])
    nothing = sum(loss(out, targets(False, False, False)).values())
    nothing.backward()
    assert nothing == 0 and (out.boxes.grad == 0).all() and (out.class_logits.grad == 0).all()


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(alpha=1.2), 'alpha=1.2'),
        (dict(class_weight=[1.0, 2.0]), 'expected 3 positive numbers'),
        (dict(class_weight=[1.0, 2.0, 0.0]), 'expected 3 positive numbers'),
        (dict(class_weight='even'), "'balanced' or None"),
    ],
    ids=['alpha', 'too-few-weights', 'zero-weight', 'unknown-word'],
)
def test_loss__wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        LocalizationLoss(3, MSE, **settings)


def test_loss__balanced_without_numbers_names_the_hook():
    with pytest.raises(ValueError, match='ClassWeightHook'):
        LocalizationLoss(3, MSE, class_weight='balanced')(outputs(), targets(True, True, True))
