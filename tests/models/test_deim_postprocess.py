"""Which pairs of query and class become detections, and where they lie in the original image."""

from math import exp

import pytest
import torch

from mmext.models.common.placement import place_in_original
from mmext.models.deim.postprocess import select_detections


@pytest.mark.parametrize(
    ('queries', 'classes', 'expected'),
    [(12, 5, 20), (7, 1, 7), (300, 80, 300), (4, 3, 12)],
    ids=['best', 'one-class', 'published', 'fewer-than-asked'],
)
def test_select_detections__equals_a_sorted_list(queries: int, classes: int, expected: int) -> None:
    torch.manual_seed(0)
    logits, boxes = 8 * torch.randn(2, queries, classes), torch.randn(2, queries, 4)
    found = select_detections(logits, boxes, max_per_img=max(expected, 20))
    for image in range(2):
        pairs = sorted(
            ((logits[image, q, c].item(), q, c) for q in range(queries) for c in range(classes)),
            reverse=True,
        )[:expected]
        assert found.labels[image].tolist() == [c for _, _, c in pairs]
        scores = [1 / (1 + exp(-logit)) for logit, _, _ in pairs]
        torch.testing.assert_close(found.scores[image], torch.tensor(scores))
        x, y, width, height = boxes[image, [q for _, q, _ in pairs]].unbind(dim=1)
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        torch.testing.assert_close(found.boxes[image], torch.stack(corners, dim=1))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_select_detections__in_full_precision(dtype: torch.dtype) -> None:
    logits = torch.tensor([[[9.0, 12.0, 10.0]]], dtype=dtype)  # all of them 1 in half precision
    found = select_detections(logits, torch.rand(1, 1, 4, dtype=dtype), max_per_img=3)
    assert found.scores.dtype == found.boxes.dtype == torch.float32
    assert found.labels.tolist() == [[1, 2, 0]]
    assert (found.scores[0].diff() < 0).all()


def test_place_in_original__by_hand() -> None:
    # 400 x 300 px (w x h), halved along x only, with 20 columns at the left and 10 rows at the top: 256 x 320 px.
    boxes = torch.tensor([[20 / 256, 10 / 320, 220 / 256, 310 / 320], [0, 1, 1, 0]])
    placed = place_in_original(
        boxes, input_size=(320, 256), scale_factor=(0.5, 1.0), offset=(20, 10)
    )
    expected = torch.tensor([[0.0, 0.0, 400.0, 300.0], [-40.0, 310.0, 472.0, -10.0]])
    torch.testing.assert_close(placed, expected)
