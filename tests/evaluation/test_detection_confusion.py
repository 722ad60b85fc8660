"""Confusion matrices of detections, counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmext.evaluation.detection_confusion import (
    FoundObjects,
    ObjectTruth,
    confusion_matrix,
    count_found,
    objects_and_queries,
    read_truth,
    threshold_of_count,
)

# Two squares of 10 pixels side by side, of the classes 0 and 1.
LEFT, RIGHT = (0, 0, 10, 10), (20, 0, 30, 10)
# IoU with LEFT: 80 / 120, 50 / 150.
NEAR, FAR = (2, 0, 12, 10), (5, 0, 15, 10)


def truth_of(*rows: tuple, crowd: tuple = ()) -> ObjectTruth:
    boxes = np.array([box for box, _ in rows], dtype=float).reshape(-1, 4)
    labels = np.array([label for _, label in rows], dtype=np.int64)
    return ObjectTruth(boxes, labels, np.array([i in crowd for i in range(len(rows))], dtype=bool))


def found_of(*rows: tuple) -> FoundObjects:
    boxes = np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in rows], dtype=np.float32)
    return FoundObjects(boxes, scores, np.array([own for _, _, own in rows], dtype=np.int64))


BOTH = truth_of((LEFT, 0), (RIGHT, 1))


@pytest.mark.parametrize(
    ('found', 'truth', 'expected'),
    [
        (found_of((LEFT, 0.9, 0), (RIGHT, 0.8, 1)), BOTH, [[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
        (found_of((NEAR, 0.9, 1)), BOTH, [[0, 1, 0], [0, 0, 1], [0, 0, 0]]),
        (found_of((FAR, 0.9, 0)), BOTH, [[0, 0, 1], [0, 0, 1], [1, 0, 0]]),
        (found_of((LEFT, 0.2, 0)), BOTH, [[0, 0, 1], [0, 0, 1], [0, 0, 0]]),
        # The surer one takes the object, whatever its place in the list; the other lies on nothing that is left.
        (found_of((LEFT, 0.5, 0), (NEAR, 0.9, 1)), BOTH, [[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        # A query with two classes counts once.
        (found_of((LEFT, 0.5, 0), (LEFT, 0.9, 1)), BOTH, [[0, 1, 0], [0, 0, 1], [0, 0, 0]]),
        (found_of(), BOTH, [[0, 0, 1], [0, 0, 1], [0, 0, 0]]),
        (found_of((LEFT, 0.9, 1)), truth_of(), [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
        (found_of(), truth_of(), [[0, 0, 0]] * 3),
        # A small box within a crowd is neither right nor wrong, and the crowd is not missed.
        (
            found_of(((1, 1, 4, 4), 0.9, 0)),
            truth_of((LEFT, 0), crowd=(0,)),
            [[0, 0, 0]] * 3,
        ),
        (found_of(((9, 9, 1, 1), 0.9, 0)), BOTH, [[0, 0, 1], [0, 0, 1], [1, 0, 0]]),
    ],
    ids=[
        'right',
        'wrong class',
        'beside',
        'low score',
        'two on one',
        'one query twice',
        'nothing found',
        'no objects',
        'nothing at all',
        'crowd',
        'inverted box',
    ],
)
def test_confusion__by_hand(found, truth, expected):
    assert confusion_matrix([(found, truth)], 2, score_thr=0.3).tolist() == expected


def test_confusion__images_add_up_and_the_threshold_is_within():
    pairs = [(found_of((LEFT, 0.5, 1)), BOTH), (found_of((RIGHT, 0.5, 1)), BOTH)]
    matrix = confusion_matrix(pairs, 2, score_thr=0.5, min_iou=1.0)
    assert matrix.tolist() == [[0, 1, 1], [0, 1, 1], [0, 0, 0]]
    # Every object is in one row, whatever is found.
    assert matrix[:2].sum(axis=1).tolist() == [2, 2]


def test_threshold__as_many_detections_of_different_boxes():
    images = [
        found_of((LEFT, 0.25, 0), (LEFT, 0.75, 1), (RIGHT, 0.5, 0)),
        found_of((FAR, 0.125, 0)),
        found_of(),
    ]
    assert [count_found(images, score) for score in (0.0, 0.2, 0.5, 0.9)] == [3, 2, 2, 0]
    assert [threshold_of_count(images, count) for count in (1, 2, 3, 9)] == [
        0.75,
        0.5,
        0.125,
        0.125,
    ]
    assert threshold_of_count([found_of()], 1) == 0


def test_objects_and_queries__the_best_of_each_object():
    boxes = np.array([FAR, NEAR, LEFT, (500, 0, 510, 10)])
    objects, queries = objects_and_queries(boxes, BOTH)
    assert (objects.tolist(), queries.tolist()) == ([0], [2])
    crowd = BOTH._replace(crowd=np.array([True, False]))
    assert not len(objects_and_queries(boxes, crowd)[0])
    assert not len(objects_and_queries(boxes, truth_of())[0])


def write(path: Path, annotations: list[dict]) -> str:
    categories = [dict(id=7, name='b'), dict(id=3, name='a'), dict(id=5, name='other')]
    images = [dict(id=11), dict(id=12)]
    content = dict(images=images, categories=categories, annotations=annotations)
    path.write_text(json.dumps(content))
    return str(path)


def annotation(number: int, category: int, **changes: object) -> dict:
    return dict(id=number, image_id=11, category_id=category, bbox=[1, 2, 3, 4]) | changes


def test_read_truth__labels_by_name_and_images_without_objects(tmp_path):
    own = [annotation(1, 7), annotation(2, 5), annotation(3, 3, iscrowd=1)]
    truth = read_truth(write(tmp_path / 'a.json', own), ('a', 'b'))
    assert list(truth) == [11, 12] and truth[12].boxes.shape == (0, 4)
    assert truth[11].boxes.tolist() == [[1, 2, 4, 6]] * 2
    assert (truth[11].labels.tolist(), truth[11].crowd.tolist()) == ([1, 0], [False, True])


@pytest.mark.parametrize('own', [[], [annotation(1, 5)]], ids=['none', 'of another class'])
def test_read_truth__nothing_to_score(tmp_path, own):
    with pytest.raises(ValueError, match='got 2 images without an object of a, b'):
        read_truth(write(tmp_path / 'a.json', own), ('a', 'b'))


@pytest.mark.parametrize('bbox', [[], None, [1, 2, None, 4], [1, 2, 3]], ids=str)
def test_read_truth__what_is_no_box_is_named(tmp_path, bbox):
    path = write(tmp_path / 'a.json', [annotation(1, 7, bbox=bbox)])
    with pytest.raises(ValueError, match=r'got bbox .* of image 11, expected \[x, y, width'):
        read_truth(path, ('a', 'b'))
