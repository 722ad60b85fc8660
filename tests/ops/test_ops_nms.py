"""Suppression against a slow loop, on inputs large enough to meet every block of the fast one."""

import mmcv.ops
import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from tests.ops.op_cases import random_boxes, scores_of


def slow_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> list[int]:
    """Takes the best box, drops what overlaps it, and so on."""
    left = scores.argsort(descending=True, stable=True)
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[bbox_overlaps(boxes[best][None], boxes[left])[0] <= iou_threshold]
    return kept


@pytest.mark.parametrize('threshold', [0.2, 0.6])
@pytest.mark.parametrize(
    ('num', 'extent'), [(127, 60), (128, 60), (129, 60), (900, 70), (900, 2000)]
)
def test_nms__matches_a_slow_loop(num, extent, threshold, torch_ops):
    boxes, scores = random_boxes(3, num, extent), scores_of(3, num)
    _, kept = mmcv.ops.nms(boxes, scores, threshold)
    assert kept.tolist() == slow_nms(boxes, scores, threshold)


def test_nms__separate_stretches_change_nothing(torch_ops):
    # Twelve groups, each far to the right of the one before: the fast path takes them one by one.
    boxes, scores = random_boxes(4, 3000), scores_of(4, 3000)
    boxes += (torch.arange(3000) % 12 * 1000)[:, None]
    _, kept = mmcv.ops.nms(boxes, scores, 0.3)
    assert kept.tolist() == slow_nms(boxes, scores, 0.3)


def test_nms__a_long_chain_of_boxes(torch_ops):
    # Each box overlaps only its neighbours, so every second one stays.
    left = torch.arange(500) * 4.0
    boxes = torch.stack([left, torch.zeros(500), left + 10, torch.ones(500)], 1)
    scores = torch.linspace(1, 0.1, 500)
    _, kept = mmcv.ops.nms(boxes, scores, 0.4)
    assert kept.tolist() == list(range(0, 500, 2))


def test_nms__equal_scores_keep_the_order_of_the_input(torch_ops):
    boxes = random_boxes(5, 400, 10_000)
    _, kept = mmcv.ops.nms(boxes, torch.full((400,), 0.5), 0.99)
    assert kept.tolist() == list(range(400))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_nms__other_precisions(dtype, torch_ops):
    boxes, scores = random_boxes(6, 200).to(dtype), scores_of(6, 200).to(dtype)
    kept = torch_ops.nms(boxes, scores, iou_threshold=0.5, offset=0)
    assert kept.tolist() == slow_nms(boxes.double(), scores.double(), 0.5)


def test_nms__numpy_in_numpy_out(torch_ops):
    dets, kept = mmcv.ops.nms(random_boxes(8, 9).numpy(), scores_of(8, 9).numpy(), 0.5)
    assert isinstance(dets, np.ndarray) and isinstance(kept, np.ndarray)


def test_batched_nms__equals_one_run_a_class(torch_ops):
    boxes, scores, labels = random_boxes(9, 1000), scores_of(9, 1000), torch.arange(1000) % 7
    dets, kept = mmcv.ops.batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.4))
    expected = []
    for label in range(7):
        members = (labels == label).nonzero()[:, 0]
        expected += members[slow_nms(boxes[members], scores[members], 0.4)].tolist()
    assert sorted(kept.tolist()) == sorted(expected)
    assert dets[:, 4].tolist() == sorted(dets[:, 4].tolist(), reverse=True)
