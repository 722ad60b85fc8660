"""What queries start from, against lists worked out by hand."""

import torch
from torch import Tensor

from mmext.models.yolo.postprocess import Detections, TestSettings
from mmext.models.yolo.query_seeds import collate_seeds, fit_priors, seed_training, select_seeds
from mmext.structures.boxes import box_iou

# Six priors; 1 doubles 0, 4 doubles 3 less.
BOXES = torch.tensor(
    [
        [0.0, 0, 10, 10],
        [0.0, 0, 10, 11],
        [20.0, 0, 30, 10],
        [40.0, 0, 60, 10],
        [40.0, 0, 52, 10],
        [0.0, 40, 10, 50],
    ]
)
SCORES = torch.tensor([[0.9, 0.8, 1e-6, 0.1, 0.3, 0.4], [0.5, 0.1, 1e-7, 0.2, 0.1, 0.3]])
SETTINGS = TestSettings(score_thr=0.5, nms=dict(type='nms', iou_threshold=0.7))


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_select__after_suppression_one_class_each_however_low_the_score():
    found = select_seeds(SCORES, BOXES, SETTINGS, num_seeds=10)
    assert found.prior.tolist() == [0, 5, 4, 3, 2]
    assert found.labels.tolist() == [0, 0, 0, 1, 0]
    assert select_seeds(SCORES, BOXES, SETTINGS, num_seeds=2).prior.tolist() == [0, 5]


def test_training__objects_first_then_detections_and_who_stands_for_whom():
    truth = boxes([39, 0, 59, 10], [70, 70, 90, 90], [0, 0, 10, 9])
    seeds = seed_training(SCORES, BOXES, truth, SETTINGS, num_seeds=7, seeds_per_object=1)
    # The second object overlaps with no box at all: any prior will do, and the seed is its own all the same.
    assert seeds.prior.tolist() == [3, 0, 0, 0, 5, 4, 3]
    assert torch.equal(seeds.bboxes, BOXES[seeds.prior])
    # Priors 0 and 3 come again as detections; 4 overlaps with the first object by 12 / 21.
    pairs = dict(zip(*(part.tolist() for part in seeds.pairs), strict=True))
    assert pairs == {0: 0, 1: 1, 2: 2, 3: 2, 5: 0, 6: 0}


def test_training__more_objects_than_seeds():
    truth = BOXES[[5, 3, 2, 0]]
    seeds = seed_training(SCORES, BOXES, truth, SETTINGS, num_seeds=2, seeds_per_object=3)
    assert seeds.prior.tolist() == [5, 3]
    assert [part.tolist() for part in seeds.pairs] == [[0, 1], [0, 1]]


def test_training__every_object_has_a_seed_before_any_has_a_second():
    truth = boxes([0, 0, 10, 10], [40, 0, 60, 10])
    # Eight seeds, half of them for objects: priors 0 and 3, then 1 and 4; the third ones must wait for more seeds.
    seeds = seed_training(SCORES, BOXES, truth, SETTINGS, num_seeds=8, seeds_per_object=3)
    assert seeds.prior.tolist() == [0, 3, 1, 4, 0, 5, 4, 3]
    pairs = dict(zip(*(part.tolist() for part in seeds.pairs), strict=True))
    assert pairs == {0: 0, 1: 1, 2: 0, 3: 1, 4: 0, 6: 1, 7: 1}
    # Five leave room for two, which are enough for one each.
    seeds = seed_training(SCORES, BOXES, truth, SETTINGS, num_seeds=5, seeds_per_object=3)
    assert seeds.prior.tolist() == [0, 3, 0, 5, 4]


def test_training__a_detection_that_is_an_own_seed_stands_for_the_same_object():
    # Prior 5 overlaps with the object by a seventh: too little for a detection, but it is the object's best.
    truth = boxes([5, 45, 15, 55])
    seeds = seed_training(SCORES, BOXES, truth, SETTINGS, num_seeds=4, seeds_per_object=1)
    assert seeds.prior.tolist() == [5, 0, 5, 4]
    assert [part.tolist() for part in seeds.pairs] == [[0, 2], [0, 0]]


def test_fit__objects_without_further_priors_repeat_their_first():
    # Nobody's first are 1, 2 and 4. Of those, 1 fits the first object and 4 the third, by 12 / 20; 2 fits none.
    truth = boxes([0, 0, 10, 10], [0, 40, 10, 50], [40, 0, 60, 10])
    prior, gt = fit_priors(BOXES, truth, 3)
    assert prior.reshape(3, 3).tolist() == [[0, 5, 3], [1, 5, 4], [0, 5, 3]]
    assert gt.reshape(3, 3).tolist() == [[0, 1, 2]] * 3


def test_fit__equals_a_slow_loop():
    torch.manual_seed(0)
    corners = 20 * torch.rand(60, 2)
    priors = torch.cat([corners, corners + 4 + 8 * torch.rand(60, 2)], dim=1)
    truth = priors[:7] + torch.randn(7, 4)
    prior, gt = fit_priors(priors, truth, 4)
    overlap = box_iou(truth[:, None], priors[None]).tolist()
    firsts = [row.index(max(row)) for row in overlap]
    for index, row in enumerate(overlap):
        free = [a for a in range(60) if a not in firsts]
        mine = [a for a in free if row[a] == max(other[a] for other in overlap)]
        good = [a for a in mine if row[a] > 0.5 * max(row)]
        expected = sorted(good, key=lambda a, row=row: -row[a])[:3]
        expected = [firsts[index], *expected, *[firsts[index]] * (3 - len(expected))]
        assert prior[gt == index].tolist() == expected
    assert gt.tolist() == list(range(7)) * 4


def test_fit__more_seeds_per_object_than_priors():
    prior, gt = fit_priors(BOXES[:2], boxes([0, 0, 10, 10]), 5)
    assert prior.tolist() == [0, 1] and gt.tolist() == [0, 0]


def test_training__no_object():
    seeds = seed_training(SCORES, BOXES, boxes(), SETTINGS, num_seeds=2, seeds_per_object=3)
    assert seeds.prior.tolist() == [0, 5]
    assert [len(part) for part in seeds.pairs] == [0, 0]


def test_collate__fills_up_and_normalises():
    def seeds(prior: list[int], bboxes: Tensor) -> Detections:
        return Detections(
            bboxes, torch.zeros(len(prior)), torch.zeros(len(prior)), torch.tensor(prior).long()
        )

    batch = [
        seeds([7, 3], boxes([-10, 10, 30, 20], [40, 0, 80, 40])),
        seeds([], boxes()),
    ]
    found = collate_seeds(batch, num_seeds=3, input_size=(40, 80))
    assert found.priors.tolist() == [[7, 3, 0], [0, 0, 0]]
    assert found.valid.tolist() == [[True, True, False], [False, False, False]]
    # The first reaches over the edge: 0 to 30 of 80.
    expected = torch.tensor([[0.1875, 0.375, 0.375, 0.25], [0.75, 0.5, 0.5, 1.0], [0.0] * 4])
    torch.testing.assert_close(found.boxes[0], expected)
    assert found.boxes[1].abs().sum() == 0
