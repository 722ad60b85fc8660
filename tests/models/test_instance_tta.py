"""Test-time augmentation with masks, against views mirrored by hand."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmext.models.common.instance_tta import InstanceTTAModel, unflip

SHAPE = (20, 30)
BOX = [2.0, 4.0, 10.0, 8.0]
# The box in the mirrored photo: x -> 30 - x, y -> 20 - y.
MIRRORED = {
    'horizontal': [20.0, 4.0, 28.0, 8.0],
    'vertical': [2.0, 12.0, 10.0, 16.0],
    'diagonal': [20.0, 12.0, 28.0, 16.0],
}


def bitmap(box):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    x1, y1, x2, y2 = map(int, box)
    mask[y1:y2, x1:x2] = True
    return mask


def as_code(mask):
    return coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))


def view(boxes, scores, direction=None, *, codes=False, labels=None):
    masks = [bitmap(box) for box in boxes]
    sample = DetDataSample(
        metainfo=dict(ori_shape=SHAPE, flip=direction is not None, flip_direction=direction)
    )
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels or [0] * len(boxes), dtype=torch.long),
        masks=[as_code(m) for m in masks] if codes else torch.stack(masks),
    )
    return sample


class Nothing(nn.Module):
    data_preprocessor = None

    def test_step(self, data):
        return data


def model(max_per_img=10):
    nms = dict(type='nms', iou_threshold=0.5)
    return InstanceTTAModel(Nothing(), nms=nms, max_per_img=max_per_img)


@pytest.mark.parametrize('codes', [False, True], ids=['bitmaps', 'run-lengths'])
@pytest.mark.parametrize('direction', MIRRORED)
def test_unflip__box_and_mask_come_back(direction, codes):
    sample = view([MIRRORED[direction]], [0.5], direction, codes=codes)
    found = unflip(sample.pred_instances, sample.metainfo)
    assert found.bboxes.tolist() == [BOX]
    mask = torch.from_numpy(coco_mask.decode(found.masks[0])).bool() if codes else found.masks[0]
    assert torch.equal(mask, bitmap(BOX))


def test_unflip__a_view_that_does_not_say():
    with pytest.raises(ValueError, match='meta_keys'):
        unflip(InstanceData(), dict(ori_shape=SHAPE))


@pytest.mark.parametrize('codes', [False, True], ids=['bitmaps', 'run-lengths'])
def test_merge__the_better_view_of_an_object_stays_and_others_are_added(codes):
    other = [15.0, 10.0, 25.0, 18.0]
    views = [
        view([BOX], [0.4], codes=codes),
        view(
            [MIRRORED['horizontal'], [5.0, 10.0, 15.0, 18.0]], [0.9, 0.3], 'horizontal', codes=codes
        ),
    ]
    (merged,) = model().merge_preds([views])
    found = merged.pred_instances
    assert found.bboxes.tolist() == [BOX, other]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.3]))
    assert len(found.masks) == 2
    first = torch.from_numpy(coco_mask.decode(found.masks[0])).bool() if codes else found.masks[0]
    assert torch.equal(first, bitmap(BOX))


def test_merge__classes_do_not_suppress_each_other():
    (merged,) = model().merge_preds([[view([BOX, BOX], [0.9, 0.8], labels=[0, 1])]])
    assert merged.pred_instances.labels.tolist() == [0, 1]


def test_merge__keeps_the_best():
    boxes = [[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 14.0, 14.0]]
    (merged,) = model(max_per_img=1).merge_preds([[view(boxes, [0.2, 0.7])]])
    assert merged.pred_instances.bboxes.tolist() == [boxes[1]]


def test_merge__nothing_found():
    empty = DetDataSample(metainfo=dict(ori_shape=SHAPE, flip=False, flip_direction=None))
    empty.pred_instances = InstanceData(
        bboxes=torch.zeros(0, 4),
        scores=torch.zeros(0),
        labels=torch.zeros(0, dtype=torch.long),
        masks=torch.zeros(0, *SHAPE, dtype=torch.bool),
    )
    (merged,) = model().merge_preds([[empty, empty]])
    assert merged.pred_instances.masks.shape == (0, *SHAPE)
