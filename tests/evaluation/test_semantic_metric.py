"""Scores of maps of classes: against mmseg's IoUMetric, a slow boundary IoU, and over processes that repeat pictures."""

import csv
import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from PIL import Image

from mmext.evaluation import SemanticMetric, semantic_metric
from mmext.evaluation.boundary import boundary_width, mask_boundary
from mmext.evaluation.confusion import draw_confusion, short_count
from mmext.evaluation.label_maps import count_labels, label_boundary, label_scores
from mmext.evaluation.semantic_metric import mistaken_for

CLASSES = ('sky', 'wall', 'tree', 'lamp')


def blobs(rng: np.random.Generator, size: tuple[int, int], values: list[int]) -> np.ndarray:
    """A map of rectangles."""
    labels = np.full(size, values[0], np.uint8)
    for value in values[1:]:
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        labels[top : top + size[0] // 2, left : left + size[1] // 3] = value
    return labels


def pictures(num: int = 3, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predictions and truths of several sizes, with pixels without truth; nothing is a lamp."""
    rng = np.random.default_rng(seed)
    sizes = [(30 + 7 * index, 41 - 5 * index) for index in range(num)]
    return [(blobs(rng, size, [0, 1, 2, 1]), blobs(rng, size, [0, 2, 1, 255, 1])) for size in sizes]


def sample(predicted: np.ndarray, truth: np.ndarray, dtype: torch.dtype = torch.long) -> dict:
    """As the evaluator hands it on."""
    found = SegDataSample(metainfo=dict(img_path='a.jpg'))
    found.pred_sem_seg = PixelData(data=torch.from_numpy(predicted)[None].to(dtype))
    found.gt_sem_seg = PixelData(data=torch.from_numpy(truth)[None].long())
    return found.to_dict()


def metric(**options: object) -> SemanticMetric:
    own = SemanticMetric(**options)
    own.dataset_meta = dict(classes=CLASSES)
    return own


@pytest.mark.parametrize('dtype', (torch.long, torch.float32, torch.uint8), ids=str)
def test_metric__agrees_with_mmseg(dtype: torch.dtype) -> None:
    own, other = metric(classwise=True), IoUMetric(iou_metrics=['mIoU', 'mDice'])
    other.dataset_meta = own.dataset_meta
    for predicted, truth in pictures():
        own.process({}, [sample(predicted, truth, dtype)])
        other.process({}, [sample(predicted, truth)])
    found, expected = own.evaluate(3), other.evaluate(3)
    assert set(expected) == {'aAcc', 'mIoU', 'mAcc', 'mDice'}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=0.0051)  # it rounds
    # The class that is nowhere has no score and is left out of the means.
    assert math.isnan(found['IoU/lamp'])
    assert found['mIoU'] == pytest.approx(np.mean([found[f'IoU/{name}'] for name in CLASSES[:3]]))
    assert 0 < found['mBoundaryIoU'] < found['mIoU'] < 100


def slow_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixel by pixel: something else, or nothing, within `width` rows and columns."""
    result = np.zeros_like(mask)
    for row, column in zip(*np.nonzero(mask), strict=True):
        for near_row in range(row - width, row + width + 1):
            for near_column in range(column - width, column + width + 1):
                inside = 0 <= near_row < mask.shape[0] and 0 <= near_column < mask.shape[1]
                if not inside or not mask[near_row, near_column]:
                    result[row, column] = True
    return result


@pytest.mark.parametrize('ratio', (0.02, 0.08), ids=('thin', 'thick'))
def test_boundary_iou__equals_a_loop(ratio: float) -> None:
    own = metric(boundary_ratio=ratio, classwise=True)
    common, union = np.zeros(4), np.zeros(4)
    for predicted, truth in pictures(2):
        own.process({}, [sample(predicted, truth)])
        valid, width = truth != 255, boundary_width(truth.shape, ratio)
        for label in range(4):
            edges = [slow_boundary((part == label) & valid, width) for part in (truth, predicted)]
            common[label] += (edges[0] & edges[1]).sum()
            union[label] += (edges[0] | edges[1]).sum()
    found = own.evaluate(2)
    expected = {f'BoundaryIoU/{CLASSES[i]}': 100 * common[i] / union[i] for i in range(3)}
    assert {key: found[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (2, 3), (7, 7), (12, 40)], ids=str)
@pytest.mark.parametrize('width', (1, 3))
def test_boundary__of_all_classes_at_once_is_that_of_each(
    size: tuple[int, int], width: int
) -> None:
    labels = blobs(np.random.default_rng(0), size, [0, 3, 1, 2]).astype(np.uint16)
    boundary = label_boundary(labels, width)
    for label in range(4):
        mask = labels == label
        np.testing.assert_array_equal(boundary & mask, mask_boundary(mask, width) & mask)


def test_counts__perfect_and_reversed() -> None:
    truth = np.array([[0, 1], [255, 1]], np.uint8)
    scores = label_scores(count_labels(truth, truth, 2))
    assert {name: values.tolist() for name, values in scores.items()} == {
        'aAcc': [100], 'IoU': [100, 100], 'Acc': [100, 100], 'Dice': [100, 100],
        'Precision': [100, 100], 'BoundaryIoU': [100, 100],
    }  # fmt: skip
    counts = count_labels(np.array([[1, 0], [0, 0]]), truth, 2)
    assert counts.confusion.tolist() == [[0, 1], [2, 0]]
    assert label_scores(counts)['IoU'].tolist() == [0, 0]
    assert mistaken_for(counts, ('a', 'b'), 0) == 'b 100.0%'


@pytest.mark.parametrize('world_size', (2, 3, 4, 8))
def test_metric__adds_up_processes_and_forgets_repeated_pictures(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures(5)
    # As mmengine's DefaultSampler: the last round starts over.
    rounds = math.ceil(len(data) / world_size)
    indices = (list(range(len(data))) * world_size)[: rounds * world_size]
    shares: list[torch.Tensor] = []
    monkeypatch.setattr(semantic_metric, 'all_reduce', lambda tensor: shares.append(tensor.clone()))
    for rank in range(world_size):
        monkeypatch.setattr(semantic_metric, 'get_dist_info', lambda rank=rank: (rank, world_size))
        own = metric()
        for index in indices[rank::world_size]:
            own.process({}, [sample(*data[index])])
        own.evaluate(len(data))
    whole = metric()
    monkeypatch.setattr(semantic_metric, 'get_dist_info', lambda: (0, 1))
    shares, together = [], shares
    monkeypatch.setattr(semantic_metric, 'all_reduce', lambda tensor: shares.append(tensor.clone()))
    whole.process({}, [sample(*pair) for pair in data])
    whole.evaluate(len(data))
    for kind in range(2):
        assert torch.equal(torch.stack(together[kind::2]).sum(dim=0), shares[kind])


def test_metric__starts_anew_and_keeps_sums_only() -> None:
    own = metric()
    first, second, _ = pictures()
    own.process({}, [sample(*first)])
    expected = own.evaluate(1)
    own.process({}, [sample(*second)] * 50)
    own.evaluate(50)
    assert own.results == []
    own.process({}, [sample(*first)])
    assert own.evaluate(1) == pytest.approx(expected, nan_ok=True)


def test_metric__writes_the_matrix_into_the_folder_of_the_run(tmp_path: Path) -> None:
    (tmp_path / 'run').mkdir()
    logger = MMLogger.get_instance('confusion_test', log_file=str(tmp_path / 'run' / 'a.log'))
    try:
        own = metric(save_to='run', prefix='seg')
        predicted, truth = pictures(1)[0]
        own.process({}, [sample(predicted, truth)])
        assert set(own.evaluate(1)) == {
            f'seg/{n}' for n in ('aAcc', 'mIoU', 'mAcc', 'mDice', 'mBoundaryIoU')
        }
        text = (tmp_path / 'run' / 'a.log').read_text()
    finally:
        for handler in logger.handlers:
            handler.close()
        MMLogger._instance_dict.pop('confusion_test')
    with open(tmp_path / 'run' / 'confusion.csv', encoding='utf-8') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['true class', *CLASSES] and [row[0] for row in rows[1:]] == list(CLASSES)
    matrix = np.array([[int(cell) for cell in row[1:]] for row in rows[1:]])
    valid = truth != 255
    for label, other in np.ndindex(4, 4):
        assert matrix[label, other] == ((truth == label) & (predicted == other) & valid).sum()
    with Image.open(tmp_path / 'run' / 'confusion.png') as picture:
        assert min(picture.size) > 300
    assert 'most often taken for' in text and '| sky ' in text and 'confusion.csv' in text


@pytest.mark.parametrize('num_classes', (1, 21), ids=str)
def test_picture__of_few_and_of_many_classes(num_classes: int, tmp_path: Path) -> None:
    confusion = np.eye(num_classes, dtype=np.int64) * 12345
    confusion[0] = 0
    draw_confusion(
        tmp_path / 'new' / 'a.png', confusion, [f'class {i}' for i in range(num_classes)]
    )
    with Image.open(tmp_path / 'new' / 'a.png') as picture:
        assert max(picture.size) < 4000
    assert [short_count(n) for n in (0, 999, 1000, 12345, 10**7)] == [
        '0',
        '999',
        '1k',
        '12.3k',
        '10M',
    ]


@pytest.mark.parametrize('num_classes', (2, 21), ids=('with numbers', 'without'))
def test_picture__colours_are_the_shares_of_the_true_class(
    num_classes: int, tmp_path: Path
) -> None:
    confusion = np.zeros((num_classes, num_classes), np.int64)
    confusion[:2, :2] = [[0, 40], [10, 30]]
    draw_confusion(tmp_path / 'a.png', confusion, [f'class {i}' for i in range(num_classes)])
    with Image.open(tmp_path / 'a.png') as picture:
        pixels = np.asarray(picture.convert('RGB')).astype(int)
    places = {}
    for share in (0.25, 0.75, 1.0):
        colour = matplotlib.colormaps['Blues'](share, bytes=True)[:3]
        rows, columns = np.nonzero(np.abs(pixels - np.array(colour, int)).max(axis=2) <= 3)
        # The cell has hundreds of them, the colour bar a line or two.
        assert len(rows) > 150
        places[share] = np.median(rows), np.median(columns)
    assert places[1.0][0] < places[0.25][0] - 10  # the first true class lies above the second
    assert places[0.25][0] == pytest.approx(places[0.75][0], abs=5)
    assert places[0.25][1] < places[0.75][1] - 10  # and predicted classes go to the right
    assert places[1.0][1] == pytest.approx(places[0.75][1], abs=5)


MISTAKES = {
    'size': (np.zeros((4, 5), int), np.zeros((4, 4), int), 'LoadAnnotations must stand behind Resize'),
    'label': (np.zeros((4, 4), int), np.full((4, 4), 4), 'values 4 to 4 in the truth; expected 0 to 3'),
    'prediction': (np.full((4, 4), 9), np.zeros((4, 4), int), 'in the prediction.*num_classes of the head'),
}  # fmt: skip


@pytest.mark.parametrize('case', MISTAKES)
def test_metric__names_picture_and_mistake(case: str) -> None:
    predicted, truth, text = MISTAKES[case]
    with pytest.raises(ValueError, match=f'a.jpg: .*{text}'):
        metric().process({}, [sample(predicted, truth)])


def test_metric__says_what_is_missing() -> None:
    with pytest.raises(ValueError, match='boundary_ratio=2'):
        SemanticMetric(boundary_ratio=2)
    own = metric()
    with pytest.raises(ValueError, match='a.jpg has no gt_sem_seg'):
        own.process({}, [{'pred_sem_seg': dict(data=torch.zeros(1, 2, 2)), 'img_path': 'a.jpg'}])
    own.dataset_meta = {}
    with pytest.raises(ValueError, match='metainfo'):
        own.process({}, [sample(np.zeros((2, 2), int), np.zeros((2, 2), int))])


def test_metric__nothing_to_score_is_nan() -> None:
    own = metric()
    own.process({}, [sample(np.zeros((3, 3), int), np.full((3, 3), 255))])
    scores = own.evaluate(1)
    # `save_best` asks for them.
    assert set(scores) == {'aAcc', 'mIoU', 'mAcc', 'mDice', 'mBoundaryIoU'}
    assert all(math.isnan(value) for value in scores.values())
    none = metric(boundary_ratio=None).evaluate(0)
    assert set(none) == set(scores) - {'mBoundaryIoU'}
    assert all(math.isnan(value) for value in none.values())
