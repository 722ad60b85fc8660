"""Planted objects: the head's own decoding and suppression find exactly those."""

import numpy as np
import pytest
import torch
from torch import nn

from mmext.apis import planting
from mmext.apis.planting import RINGS, draw_objects, plant, plant_masks, planted_outputs
from mmext.models.yolo.outputs import SegmentOutputs, decode_boxes, flatten_outputs
from mmext.models.yolo.postprocess import TestSettings, select_detections

AREA = (0, 140, 640, 500)
LEVELS = {8: 80, 16: 40, 32: 20}


def priors() -> torch.Tensor:
    """(A, 4) centre and stride of every cell, level after level, row by row."""
    return torch.tensor(
        [
            ((column + 0.5) * stride, (row + 0.5) * stride, stride, stride)
            for stride, side in LEVELS.items()
            for row in range(side)
            for column in range(side)
        ]
    )


@pytest.mark.parametrize('num_classes', [1, 80])
@pytest.mark.parametrize('num_objects', [1, 100])
def test_plant__the_head_finds_these_objects_and_no_others(num_classes, num_objects):
    objects = draw_objects(num_objects, area=AREA, strides=list(LEVELS), num_bins=16)
    shapes = [(1, num_classes, side, side) for side in LEVELS.values()]
    scores, dists = plant(
        objects,
        [torch.randn(shape) for shape in shapes],
        [torch.randn(1, 64, *shape[2:]) for shape in shapes],
        strides=list(LEVELS),
        rings=RINGS,
    )
    outputs = SegmentOutputs(
        scores, dists, [level[:, :2] for level in dists], torch.zeros(1, 2, 4, 4)
    )
    flat = flatten_outputs(outputs)
    boxes = decode_boxes(flat.box_dists, priors(), 16)[0]
    probability = flat.cls_logits.sigmoid()[0]
    assert (probability > 0.001).sum() > 3 * num_objects  # the neighbours found them too
    found = select_detections(probability, boxes, TestSettings())
    expected = torch.from_numpy(np.stack([own.box for own in objects])).float()
    torch.testing.assert_close(found.bboxes, expected, atol=0.02, rtol=0)
    assert found.labels.tolist() == [index % num_classes for index in range(num_objects)]


def test_plant_masks__half_full_and_with_outlines():
    coeffs, prototypes = plant_masks([torch.zeros(2, 32, 5, 7)], torch.zeros(2, 32, 160, 96))
    assert coeffs[0].shape == (2, 32, 5, 7)
    masks = torch.einsum('bkn,bkhw->bnhw', coeffs[0].flatten(2), prototypes) > 0
    assert masks.float().mean() == pytest.approx(0.5, abs=0.05)
    # Changes along a row of 96 pixels: a zero of noise every one or two blobs.
    changes = (masks[..., 1:] != masks[..., :-1]).float().sum(dim=-1).mean()
    assert 1 < changes < 6


class LastLevelOfTwoCells(nn.Module):
    """A head of four levels on an input of 96 pixels: at stride 64 it has two cells, and not one and a half."""

    strides = (8, 16, 32, 64)

    def forward(self) -> SegmentOutputs:
        levels = [torch.zeros(1, 8, side, side) for side in (12, 6, 3, 2)]
        return SegmentOutputs(levels, levels, levels, torch.zeros(1, 8, 24, 24))


def test_planted_outputs__strides_are_those_of_the_head(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        planting, 'draw_objects', lambda num, *, strides, **_: drawn.append(tuple(strides)) or []
    )
    head = LastLevelOfTwoCells()
    with planted_outputs(head, 3, area=(0, 0, 96, 96), input_size=(96, 96)):
        assert head().cls_scores[3].max() < 0
    assert drawn == [(8, 16, 32, 64)]
    assert head().cls_scores[3].max() == 0


def test_draw_objects__inside_the_area_and_of_many_sizes():
    objects = draw_objects(100, area=AREA, strides=list(LEVELS), num_bins=16)
    boxes = np.stack([own.box for own in objects])
    assert (boxes[:, :2] >= AREA[:2]).all() and (boxes[:, 2:] <= AREA[2:]).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() < 32 and sides.max() > 128
    assert {own.cell.level for own in objects} == {0, 1, 2}


def test_draw_objects__no_room_is_one_message():
    with pytest.raises(ValueError, match='got 1000 detections to plant, and there is room for'):
        draw_objects(1000, area=(0, 0, 64, 64), strides=list(LEVELS), num_bins=16)
