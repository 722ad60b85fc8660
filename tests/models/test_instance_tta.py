"""Test-time augmentation with masks, against views mirrored by hand."""

from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from mmext.models.common.instance_tta import InstanceTTAModel, unflip
from mmext.models.yolo.assembly import OutputFrame, assemble_rles

DATASETS = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'datasets'

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
    return InstanceTTAModel(Nothing(), iou_threshold=0.5, max_per_img=max_per_img)


def decoded(masks):
    """(N, H, W) bool of masks of either kind."""
    if isinstance(masks, torch.Tensor):
        return masks
    return torch.from_numpy(np.stack([coco_mask.decode(code) for code in masks])).bool()


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
def test_merge__an_object_of_all_views_is_averaged_and_others_are_added(codes):
    # 24 of 32 pixels are common to the first view's box and the mirrored one's.
    shifted = [18.0, 4.0, 26.0, 8.0]
    views = [
        view([BOX], [0.2], codes=codes),
        view([shifted, [5.0, 10.0, 15.0, 18.0]], [0.6, 0.3], 'horizontal', codes=codes),
    ]
    (merged,) = model().merge_preds([views])
    found = merged.pred_instances
    # x of the second: 30 - 26 = 4 to 12. A quarter of the weight is the first's: 0.25 * 2 + 0.75 * 4.
    expected = [[3.5, 4.0, 11.5, 8.0], [15.0, 10.0, 25.0, 18.0]]
    torch.testing.assert_close(found.bboxes, torch.tensor(expected))
    torch.testing.assert_close(found.scores, torch.tensor([(0.2 + 0.6) / 2, 0.3 / 2]))
    assert isinstance(found.masks, list) == codes
    masks = decoded(found.masks)
    assert torch.equal(masks[0], bitmap([4, 4, 12, 8]))
    assert torch.equal(masks[1], bitmap([15, 10, 25, 18]))


@pytest.mark.parametrize('codes', [False, True], ids=['bitmaps', 'run-lengths'])
def test_merge__pixels_of_most_views(codes):
    boxes = [[2.0, 4, 10, 8], [3.0, 4, 11, 8], [4.0, 4, 12, 8]]
    (merged,) = model().merge_preds([[view([box], [0.5], codes=codes) for box in boxes]])
    assert torch.equal(decoded(merged.pred_instances.masks)[0], bitmap([3, 4, 11, 8]))
    torch.testing.assert_close(merged.pred_instances.bboxes[0], torch.tensor(boxes[1]))


def test_merge__equal_views_are_one_view():
    one = view([BOX, [15.0, 10, 25, 18]], [0.9, 0.4], labels=[1, 0], codes=True)
    (merged,) = model().merge_preds([[one, one, one]])
    for key in ('bboxes', 'scores', 'labels'):
        torch.testing.assert_close(merged.pred_instances[key], one.pred_instances[key])
    assert merged.pred_instances.masks == one.pred_instances.masks


def test_merge__two_findings_of_one_view_count_once():
    nearly = [2.0, 4.0, 10.0, 7.0]
    (merged,) = model().merge_preds([[view([BOX, nearly], [0.9, 0.8])]])
    torch.testing.assert_close(merged.pred_instances.scores, torch.tensor([0.9]))


def test_merge__an_object_of_one_view_ranks_below_one_of_all():
    lonely = [15.0, 10.0, 25.0, 18.0]
    views = [view([BOX, lonely], [0.5, 0.8]), view([BOX], [0.5]), view([BOX], [0.5])]
    (merged,) = model().merge_preds([views])
    torch.testing.assert_close(merged.pred_instances.bboxes, torch.tensor([BOX, lonely]))


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


class BrightnessDetector(nn.Module):
    """Finds what is bright in the network input, and brings it to the photo as `Segment` does."""

    data_preprocessor = None

    def test_step(self, data):
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            # Halfway between the ground, 0, and the object, 255; the padding, 114, is ground.
            brightness = image[:1].float() - 127.5
            rows = (brightness[0] > 0).any(1).nonzero()[:, 0]
            columns = (brightness[0] > 0).any(0).nonzero()[:, 0]
            edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            frame = OutputFrame.from_meta(sample.metainfo, image.shape[1:], rescale=True)
            bboxes = frame.from_input(torch.tensor([edges], dtype=torch.float32))
            # One pixel more: a mask that came to another place than its box would be cut off by it.
            around = bboxes + torch.tensor([-1, -1, 1, 1])
            masks = assemble_rles(torch.ones(1, 1), brightness, around, frame=frame)
            sample.pred_instances = InstanceData(
                bboxes=bboxes,
                scores=torch.tensor([0.5]),
                labels=torch.zeros(1, dtype=torch.long),
                masks=masks,
            )
        return data['data_samples']


@pytest.mark.parametrize('name', ['coco_instance', 'magnetic_tile', 'synthetic_defects'])
@pytest.mark.parametrize('size', [(97, 150), (150, 97)], ids=['wide', 'tall'])
def test_shipped_views__of_all_sizes_and_flips_meet_at_the_object(name, size, tmp_path):
    cfg = Config.fromfile(DATASETS / f'{name}.py')
    image = np.zeros((*size, 3), dtype=np.uint8)
    image[20:61, 11:40] = 255
    cv2.imwrite(str(tmp_path / 'photo.png'), image)
    with DefaultScope.overwrite_default_scope('mmdet'):
        views = Compose(cfg.tta_pipeline)(dict(img_path=str(tmp_path / 'photo.png'), img_id=0))
    inputs, samples = views['inputs'], views['data_samples']
    assert len({tuple(view.shape) for view in inputs}) > 1
    assert {sample.flip for sample in samples} == {True, False}
    assert len({(sample.scale_factor, sample.flip_direction) for sample in samples}) == len(samples)
    settings = {key: value for key, value in cfg.tta_model.items() if key != 'type'}
    # Every view alone, to within the rounding of the enlargement, and all views together.
    alone = [dict(inputs=[[x]], data_samples=[[s]]) for x, s in zip(inputs, samples, strict=True)]
    together = dict(inputs=[[x] for x in inputs], data_samples=[[s] for s in samples])
    tta = InstanceTTAModel(BrightnessDetector(), **settings)
    for data in (*alone, together):
        (merged,) = tta.test_step(data)
        found = merged.pred_instances
        torch.testing.assert_close(
            found.bboxes, torch.tensor([[11.0, 20.0, 40.0, 61.0]]), atol=0.5, rtol=0
        )
        assert found.scores.tolist() == [0.5]
        np.testing.assert_array_equal(coco_mask.decode(found.masks[0]), image[..., 0] // 255)
