"""The metric of boxes, masks and outlines: hand-made squares, and mmdet's CocoMetric on random ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from pycocotools import mask as coco_mask

from mmext.evaluation import InstanceCocoMetric

SIZE = 100
CLASSES = ('chip', 'dent')
# Ids that are neither labels nor in the order of the classes.
CHIP, DENT = 7, 3
# mmdet gives a class the AP of another one where the ids do not rise.
RISING = (3, 7)


def encode(box: tuple[int, int, int, int]) -> dict:
    """The filled rectangle x1, y1, x2, y2 as a JSON-ready RLE."""
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order='F')
    mask[box[1] : box[3], box[0] : box[2]] = 1
    rle = coco_mask.encode(mask)
    return rle | dict(counts=rle['counts'].decode())


def truth(
    image_id: int, category_id: int, box: tuple[int, int, int, int], iscrowd: int = 0
) -> dict:
    width, height = box[2] - box[0], box[3] - box[1]
    return dict(
        image_id=image_id,
        category_id=category_id,
        bbox=[box[0], box[1], width, height],
        area=width * height,
        iscrowd=iscrowd,
        segmentation=encode(box),
    )


def write_truths(
    path: Path,
    truths: list[dict],
    num_images: int = 1,
    *,
    first_id: int = 1,
    ids: tuple[int, int] = (CHIP, DENT),
) -> str:
    content = dict(
        images=[dict(id=i, width=SIZE, height=SIZE) for i in range(num_images)],
        annotations=[dict(id=i, **own) for i, own in enumerate(truths, start=first_id)],
        categories=[dict(id=own, name=name) for own, name in zip(ids, CLASSES, strict=True)],
    )
    path.write_text(json.dumps(content))
    return str(path)


def sample(image_id: int, found: list[tuple[int, float, tuple]], with_masks: bool = True) -> dict:
    """A data sample with detections (label, score, box), the masks being the boxes."""
    instances = dict(
        labels=torch.tensor([own[0] for own in found], dtype=torch.long),
        scores=torch.tensor([own[1] for own in found]),
        bboxes=torch.tensor([own[2] for own in found], dtype=torch.float32).reshape(-1, 4),
    )
    if with_masks:
        instances['masks'] = [encode(own[2]) for own in found]
    return dict(img_id=image_id, ori_shape=(SIZE, SIZE), pred_instances=instances)


def score(metric: CocoMetric, samples: list[dict], classes: tuple = CLASSES) -> dict[str, float]:
    metric.dataset_meta = dict(classes=classes)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_boundary__shifted_square_by_hand(tmp_path):
    # 40 x 40 in 100 x 100, one column off: mask IoU 39 / 41. Boundaries are frames 3 wide of 444 pixels, which share
    # 6 rows of 39 and 34 rows of 2 + 2 pixels: 370 / (888 - 370) = 0.714, above 5 of the 10 thresholds.
    path = write_truths(tmp_path / 'a.json', [truth(0, CHIP, (20, 20, 60, 60))])
    scores = score(
        InstanceCocoMetric(path, classwise=True), [sample(0, [(0, 0.9, (21, 20, 61, 60))])]
    )
    assert scores['coco/segm_mAP'] == pytest.approx(1)
    for prefix in ('coco/boundary_', 'coco/boundary_chip_'):
        assert scores[f'{prefix}mAP'] == pytest.approx(0.5)
        assert scores[f'{prefix}mAP_50'] == pytest.approx(1)
        assert scores[f'{prefix}mAP_75'] == pytest.approx(0)
        assert scores[f'{prefix}IoU'] == pytest.approx(370 / 518)
    # 1600 pixels are medium; nothing is small, large or a dent.
    assert scores['coco/boundary_mAP_m'] == pytest.approx(0.5)
    assert scores['coco/boundary_IoU_m'] == pytest.approx(370 / 518)
    for key in ('mAP_s', 'mAP_l', 'IoU_s', 'IoU_l', 'dent_mAP', 'dent_IoU'):
        assert scores[f'coco/boundary_{key}'] == -1
    assert scores['coco/boundary_matched'] == 1


def test_boundary__outline_of_an_object_below_the_threshold_still_counts(tmp_path):
    # Three columns off: mask IoU 37 / 43, frames without a common vertical bar: 6 * 37 / (888 - 222) = 1 / 3.
    truths = [truth(0, CHIP, (20, 20, 60, 60)), truth(1, CHIP, (20, 20, 60, 60))]
    path = write_truths(tmp_path / 'a.json', truths, 2)
    found = [sample(0, [(0, 0.9, (23, 20, 63, 60))]), sample(1, [])]
    scores = score(InstanceCocoMetric(path, 'boundary'), found)
    assert scores['coco/boundary_mAP_50'] == 0
    assert scores['coco/boundary_IoU'] == pytest.approx(1 / 3)
    assert scores['coco/boundary_matched'] == 0.5
    assert not any('segm' in key or 'bbox' in key for key in scores)


def test_boundary__detection_inside_a_crowd_is_no_mistake(tmp_path):
    truths = [truth(0, CHIP, (10, 10, 30, 30)), truth(0, CHIP, (40, 40, 100, 100), iscrowd=1)]
    path = write_truths(tmp_path / 'a.json', truths)
    # The higher score lies inside the crowd, far from the crowd's outline.
    found = [sample(0, [(0, 0.9, (60, 60, 80, 80)), (0, 0.5, (10, 10, 30, 30))])]
    scores = score(InstanceCocoMetric(path), found)
    assert scores['coco/boundary_mAP'] == pytest.approx(1)
    assert (scores['coco/boundary_IoU'], scores['coco/boundary_matched']) == (1, 1)


def random_set(path: Path, seed: int) -> tuple[str, list[dict]]:
    """20 images with objects of all sizes; detections near them, beside them, and missing ones."""
    rng = np.random.default_rng(seed)
    truths, samples = [], []
    for image_id in range(20):
        found = []
        for _ in range(rng.integers(0, 5)):
            x, y, width, height = rng.integers((0, 0, 5, 5), (40, 40, 60, 60)).tolist()
            box = (x, y, x + width, y + height)
            label = int(rng.integers(2))
            truths.append(truth(image_id, RISING[label], box))
            for _ in range(rng.integers(0, 3)):
                moved = np.clip(np.array(box) + rng.integers(-4, 5, 4), 0, SIZE).tolist()
                found.append((label, float(rng.random()), tuple(moved)))
        samples.append(sample(image_id, found))
    return write_truths(path, truths, 20, ids=RISING), samples


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
def test_scores__equal_those_of_mmdet(tmp_path, metric):
    path, samples = random_set(tmp_path / 'a.json', seed=3)
    theirs = score(CocoMetric(path, metric, classwise=True, proposal_nums=(1, 10, 100)), samples)
    ours = score(InstanceCocoMetric(path, metric, classwise=True), samples)
    assert 0.1 < ours[f'coco/{metric}_mAP'] < 0.9
    for name in CLASSES:
        theirs[f'coco/{metric}_{name}_mAP'] = theirs.pop(f'coco/{name}_precision')
    for key, value in theirs.items():
        if key != f'coco/{metric}_mAP':  # theirs is over one detection an image with these numbers
            assert ours[key] == pytest.approx(value, abs=5.1e-4), key


def test_scores__boundary_is_never_above_mask(tmp_path):
    path, samples = random_set(tmp_path / 'a.json', seed=4)
    scores = score(InstanceCocoMetric(path, classwise=True), samples)
    for suffix in ('mAP', 'mAP_50', 'mAP_75', 'mAP_l', 'chip_mAP', 'dent_mAP'):
        assert scores[f'coco/boundary_{suffix}'] <= scores[f'coco/segm_{suffix}']
    assert scores['coco/boundary_mAP'] < scores['coco/segm_mAP']


def test_scores__a_class_has_one_value_for_boxes_and_one_for_masks(tmp_path):
    path = write_truths(tmp_path / 'a.json', [truth(0, DENT, (20, 20, 60, 60))])
    found = sample(0, [(1, 0.9, (20, 20, 60, 60))])
    found['pred_instances']['masks'] = [encode((0, 0, 5, 5))]
    scores = score(InstanceCocoMetric(path, ['bbox', 'segm'], classwise=True), [found])
    assert scores['coco/bbox_dent_mAP'] == pytest.approx(1)
    assert scores['coco/segm_dent_mAP'] == 0


def test_scores__nothing_found(tmp_path):
    path = write_truths(tmp_path / 'a.json', [truth(0, CHIP, (20, 20, 60, 60))])
    scores = score(InstanceCocoMetric(path), [sample(0, [])])
    for key in ('bbox_mAP', 'segm_mAP_50', 'boundary_mAP_75', 'boundary_matched'):
        assert scores[f'coco/{key}'] == 0
    assert scores['coco/boundary_IoU'] == -1


def test_scores__nothing_to_find(tmp_path):
    path = write_truths(tmp_path / 'a.json', [])
    scores = score(InstanceCocoMetric(path), [sample(0, [(0, 0.9, (20, 20, 60, 60))])])
    assert set(scores.values()) == {-1}


@pytest.mark.parametrize('metric', ['mask', [], ['segm', 'proposal']], ids=str)
def test_metric__unknown_name_is_refused(tmp_path, metric):
    path = write_truths(tmp_path / 'a.json', [])
    with pytest.raises(ValueError, match="expected some of 'bbox', 'segm', 'boundary'"):
        InstanceCocoMetric(path, metric)


def test_scores__annotations_numbered_from_zero_count_like_others(tmp_path):
    """pycocotools takes the id 0 for "not found": the first object would be a miss, its detection a mistake."""
    boxes = [(20, 20, 60, 60), (70, 70, 90, 90)]
    path = write_truths(tmp_path / 'a.json', [truth(0, CHIP, box) for box in boxes], first_id=0)
    scores = score(InstanceCocoMetric(path), [sample(0, [(0, 0.9, box) for box in boxes])])
    for key in ('bbox_mAP', 'segm_mAP', 'boundary_mAP', 'boundary_matched', 'boundary_IoU'):
        assert scores[f'coco/{key}'] == pytest.approx(1)


@pytest.mark.parametrize(
    ('change', 'metric', 'fault'),
    [
        (dict(segmentation=[[1, 1, 9, 9]]), 'segm', 'a polygon that is not three or more points'),
        (dict(segmentation=[]), 'boundary', 'no segmentation'),
        (dict(bbox=[1, 2, 3]), 'bbox', 'a box that is not four numbers'),
    ],
    ids=['segm', 'boundary', 'bbox'],
)
def test_metric__object_that_cannot_be_scored_is_refused_by_the_metrics_that_need_it(
    tmp_path, change, metric, fault
):
    truths = [truth(0, CHIP, (20, 20, 60, 60)), truth(0, DENT, (70, 70, 90, 90)) | change]
    path = write_truths(tmp_path / 'a.json', truths)
    with pytest.raises(ValueError, match=rf'a\.json: 1 objects have {fault} .* annotations 2$'):
        InstanceCocoMetric(path, metric)
    InstanceCocoMetric(path, 'segm' if metric == 'bbox' else 'bbox')


def test_metric__model_without_masks_is_refused(tmp_path):
    path = write_truths(tmp_path / 'a.json', [truth(0, CHIP, (20, 20, 60, 60))])
    boxes = [sample(0, [(0, 0.9, (20, 20, 60, 60))], with_masks=False)]
    with pytest.raises(ValueError, match="Set metric='bbox'"):
        score(InstanceCocoMetric(path), boxes)
    assert score(InstanceCocoMetric(path, 'bbox'), boxes)['coco/bbox_mAP'] == pytest.approx(1)


def test_metric__class_that_the_file_does_not_know_is_refused(tmp_path):
    path = write_truths(tmp_path / 'a.json', [])
    with pytest.raises(ValueError, match=r"got the classes \['crack'\]"):
        score(InstanceCocoMetric(path), [sample(0, [])], classes=('chip', 'crack'))
