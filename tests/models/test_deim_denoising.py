"""Denoising queries: how many there are, how far they are moved, what they match, who sees whom."""

import pytest
import torch
from torch import Tensor

from mmext.models.deim.denoising import NoisyObjects, block_groups, make_noisy_objects
from mmext.models.deim.outputs import ImageTargets

CLASSES = 80


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def objects(*counts: int) -> list[ImageTargets]:
    """Objects that are well inside the image, so that no noise is clipped."""
    return [
        ImageTargets(
            torch.randint(CLASSES, (n,)),
            torch.cat([0.4 + 0.2 * torch.rand(n, 2), 0.1 + 0.2 * torch.rand(n, 2)], dim=1),
        )
        for n in counts
    ]


def make(targets: list[ImageTargets], num_denoising: int = 100) -> NoisyObjects:
    return make_noisy_objects(targets, CLASSES, num_denoising)


def edges(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def in_negative_range(moved: Tensor) -> Tensor:
    return (moved.abs() > 1 - 1e-4) & (moved.abs() < 2 + 1e-4)


@pytest.mark.parametrize(
    ('counts', 'num_groups'),
    [((1,), 100), ((3, 0), 33), ((7, 5), 14), ((60, 2), 1), ((400, 1), 1)],
    ids=str,
)
def test_noisy_objects__counts(counts: tuple[int, ...], num_groups: int) -> None:
    noisy = make(objects(*counts))
    total = 2 * max(counts) * num_groups
    assert noisy.matches.num_groups == num_groups
    assert noisy.labels.shape == (len(counts), total)
    assert noisy.boxes.shape == (len(counts), total, 4)
    assert [len(own) for own in noisy.matches.query_indices] == [n * num_groups for n in counts]


def test_noisy_objects__none_without_objects() -> None:
    noisy = make(objects(0, 0))
    assert noisy.labels.shape == (2, 0) and noisy.boxes.shape == (2, 0, 4)
    assert [len(own) for own in noisy.matches.query_indices] == [0, 0]
    assert block_groups(5, 0, noisy.matches.num_groups, torch.device('cpu')).sum() == 0


def test_noisy_objects__matches_by_hand() -> None:
    # Two groups of two positives and two negatives.
    matches = make(objects(2, 1, 0), num_denoising=5).matches
    assert [own.tolist() for own in matches.query_indices] == [[0, 1, 4, 5], [0, 4], []]
    assert [own.tolist() for own in matches.object_indices] == [[0, 1, 0, 1], [0, 0], []]


def test_noisy_objects__positives_move_less_than_negatives() -> None:
    targets = objects(5, 5)
    noisy = make(targets, num_denoising=1000)
    true = torch.stack([boxes for _, boxes in targets]).repeat(1, 400, 1)
    half_sizes = true[..., 2:].repeat(1, 1, 2) / 2
    moved = (edges(noisy.boxes) - edges(true)) / half_sizes
    is_positive = (torch.arange(2000) // 5) % 2 == 0
    positive, negative = moved[:, is_positive], moved[:, ~is_positive]
    assert 0.99 < positive.abs().max() < 1 + 1e-4
    assert positive.abs().mean() == pytest.approx(0.5, abs=0.02)
    assert float(positive.mean()) == pytest.approx(0, abs=0.02)
    # Both edges of an axis moved inwards pass each other, and each becomes the other: left is right - 2.
    first, second = negative[..., :2], negative[..., 2:]
    plain = in_negative_range(first) & in_negative_range(second)
    swapped = in_negative_range(second + 2) & in_negative_range(first - 2)
    assert (plain ^ swapped).all()
    assert swapped.float().mean() == pytest.approx(0.25, abs=0.03)
    assert (noisy.boxes[..., 2:] >= 0).all()


def test_noisy_objects__positives_are_where_the_matches_say() -> None:
    targets = objects(6, 4)
    noisy = make(targets)
    for image in range(2):
        true = edges(targets[image].boxes[noisy.matches.object_indices[image]])
        own = edges(noisy.boxes[image, noisy.matches.query_indices[image]])
        half_sizes = (true[:, 2:] - true[:, :2]).repeat(1, 2) / 2
        assert ((own - true).abs() <= half_sizes + 1e-6).all()


def test_noisy_objects__stay_in_the_image() -> None:
    noisy = make([ImageTargets(torch.zeros(3, dtype=torch.long), torch.full((3, 4), 0.9))])
    assert noisy.boxes.min() >= 0
    assert edges(noisy.boxes).max() <= 1 + 1e-6
    assert (edges(noisy.boxes)[..., 2:] > 1 - 1e-6).any()


def test_noisy_objects__a_quarter_of_the_labels_is_drawn_anew() -> None:
    noisy = make(objects(10), num_denoising=20_000)
    labels = noisy.labels.view(-1, 10)
    changed = labels != labels.mode(dim=0).values
    assert changed.float().mean() == pytest.approx(0.25 * 79 / 80, abs=0.01)
    assert labels.unique().tolist() == list(range(80))


def test_noisy_objects__filling_has_no_class_and_no_size() -> None:
    noisy = make(objects(3, 1))
    filling = torch.arange(noisy.labels.shape[1]) % 3 > 0
    assert (noisy.labels[1, filling] == CLASSES).all()
    assert not noisy.boxes[1, filling].any()
    assert (noisy.labels[1, ~filling] < CLASSES).all()
    assert (noisy.labels[0] < CLASSES).all()


def test_noisy_objects__one_class() -> None:
    targets = [ImageTargets(torch.zeros(4, dtype=torch.long), torch.rand(4, 4))]
    noisy = make_noisy_objects(targets, 1, 100)
    assert not noisy.labels.any()


def test_block_groups__by_hand() -> None:
    blocked = block_groups(2, 4, 2, torch.device('cpu'))
    expected = [
        '..xx..',
        '..xx..',
        'xx....',
        'xx....',
        'xxxx..',
        'xxxx..',
    ]
    assert [''.join('x' if b else '.' for b in row) for row in blocked.tolist()] == expected
