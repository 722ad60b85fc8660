"""Scores of single objects: against hand arithmetic and pycocotools."""

import contextlib
import io

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmext.evaluation import LocalizerMetric
from mmext.evaluation.localization import average_precision, localization_scores, overlap

CLASSES = ('cat', 'dog', 'owl')


def sample(
    box: list[float], label: int, score: float, true_box: list[float], true_label: int
) -> dict:
    return dict(
        img_path='a.png',
        gt_instances=InstanceData(
            bboxes=torch.tensor([true_box]), labels=torch.tensor([true_label])
        ),
        pred_instances=InstanceData(
            bboxes=torch.tensor([box]), labels=torch.tensor([label]), scores=torch.tensor([score])
        ),
    )


def draw(number: int, seed: int = 0) -> list[dict]:
    """Boxes near their truth, some with another class, the last class never true."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(number):
        corner, size = rng.uniform(0, 50, 2), rng.uniform(20, 60, 2)
        true = np.concatenate([corner, corner + size])
        found = true + rng.normal(0, 6, 4)
        true_label = int(rng.integers(0, 2))
        label = true_label if rng.uniform() < 0.7 else int(rng.integers(0, 3))
        score = round(float(rng.uniform()), 1)  # with ties
        samples.append(sample(found.tolist(), label, score, true.tolist(), true_label))
    return samples


def score(samples: list[dict], batch_size: int = 7) -> dict[str, float]:
    metric = LocalizerMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    for start in range(0, len(samples), batch_size):
        metric.process(None, samples[start : start + batch_size])
    return metric.evaluate(len(samples))


def coco_precision(samples: list[dict]) -> np.ndarray:
    """AP50 and AP75 of each class by pycocotools, (2, 3); -1 where a class has no truth."""
    images = [dict(id=i + 1, width=200, height=200) for i in range(len(samples))]
    truths, found = [], []
    for image, own in zip(images, samples, strict=True):
        for key, entries in (('gt_instances', truths), ('pred_instances', found)):
            x1, y1, x2, y2 = own[key].bboxes[0].double().tolist()
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = dict(image_id=image['id'], category_id=int(own[key].labels) + 1, bbox=box)
            entry |= dict(id=len(entries) + 1, area=box[2] * box[3], iscrowd=0)
            if key == 'pred_instances':
                entry['score'] = float(own[key].scores)
            entries.append(entry)
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dict(images=images, annotations=truths, categories=categories)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
        evaluation.params.iouThrs = np.array([0.5, 0.75])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval['precision'][:, :, :, 0, -1]  # thresholds x recalls x classes
    return precision.mean(axis=1)


def test_average_precision__equals_pycocotools():
    samples = draw(60)
    scores, expected = score(samples), coco_precision(samples)
    for label, name in enumerate(CLASSES[:2]):
        assert scores[f'localizer/AP50_{name}'] == pytest.approx(expected[0, label], abs=1e-9)
        assert scores[f'localizer/AP75_{name}'] == pytest.approx(expected[1, label], abs=1e-9)
    assert scores['localizer/AP50'] == pytest.approx(expected[0, :2].mean(), abs=1e-9)
    assert 'localizer/AP50_owl' not in scores and expected[0, 2] == -1


def test_average_precision__no_predictions():
    assert average_precision(np.zeros(0), np.zeros(0, dtype=bool), 3) == 0


def test_scores__means_by_hand():
    samples = [
        sample([0, 0, 10, 10], 0, 0.9, [0, 0, 10, 20], 0),  # IoU 1/2
        sample([0, 0, 10, 10], 1, 0.8, [5, 0, 15, 10], 0),  # IoU 1/3, wrong class
        sample([50, 50, 60, 60], 1, 0.7, [0, 0, 10, 10], 1),  # beside it
    ]
    scores = score(samples)
    assert scores['localizer/accuracy'] == pytest.approx(2 / 3)
    assert scores['localizer/IoU'] == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert scores['localizer/IoU_cat'] == pytest.approx(5 / 12)
    assert scores['localizer/accuracy_cat'] == pytest.approx(1 / 2)
    # 'cat' has one hit of two: recalls 0 to 0.5 have precision 1; 'dog' has none.
    assert scores['localizer/AP50'] == pytest.approx(51 / 101 / 2)
    assert scores['localizer/AP75'] == 0


def test_iou__is_of_the_own_image_not_the_best_of_the_batch():
    # Each prediction is another image's truth: a trace over the batch's matrix must be 0.
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30]]
    samples = [sample(boxes[1], 0, 0.9, boxes[0], 0), sample(boxes[0], 0, 0.9, boxes[1], 0)]
    assert score(samples)['localizer/IoU'] == 0


@pytest.mark.parametrize('batch_size', [1, 4, 60])
def test_scores__do_not_depend_on_the_batch_size(batch_size):
    samples = draw(60, seed=1)
    assert score(samples, batch_size) == score(samples, 7)


@pytest.mark.parametrize(
    'box',
    [
        [5.0, 5.0, 5.0, 9.0],
        [9.0, 9.0, 2.0, 2.0],
        [0.0, float('nan'), 5.0, 5.0],
        [0.0, 0.0, 5.0, float('inf')],
    ],
    ids=['no-width', 'inverted', 'nan', 'infinite'],
)
def test_overlap__a_degenerate_box_counts_nothing(box):
    assert overlap(torch.tensor(box), torch.tensor([0.0, 0.0, 10.0, 10.0])) == 0


def test_overlap__tiny_boxes_in_a_large_image():
    box = torch.tensor([1000.0, 1000.0, 1000.0001220703125, 1000.0001220703125])
    assert overlap(box, box) == 1


@pytest.mark.parametrize('number', [0, 2])
def test_metric__an_image_needs_one_true_object(number):
    own = sample([0, 0, 10, 10], 0, 0.9, [0, 0, 10, 20], 0)
    own['gt_instances'] = InstanceData(
        bboxes=torch.zeros(number, 4), labels=torch.zeros(number, dtype=torch.long)
    )
    with pytest.raises(ValueError, match=f'got {number} true objects in a.png, expected one'):
        LocalizerMetric().process(None, [own])


def test_scores__no_images():
    with pytest.raises(ValueError, match='at least one'):
        localization_scores([], CLASSES)
