"""Drawing: what is painted, where, and from which kinds of masks."""

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData

from mmext.visualization import InstanceVisualizer, draw_instances, to_bitmaps

MASK = np.zeros((1, 40, 60), dtype=np.uint8)
MASK[0, 10:20, 5:25] = 1
KINDS = dict(
    tensor=torch.from_numpy(MASK).bool(),
    array=MASK,
    bitmaps=BitmapMasks(MASK, 40, 60),
    polygons=PolygonMasks([[np.array([5.0, 10, 25, 10, 25, 20, 5, 20])]], 40, 60),
    rle=[coco_mask.encode(np.asfortranarray(MASK[0]))],
)


@pytest.mark.parametrize('masks', KINDS.values(), ids=KINDS)
def test_to_bitmaps__all_kinds_agree(masks):
    np.testing.assert_array_equal(to_bitmaps(masks), MASK.astype(bool))


def test_to_bitmaps__refuses_an_unknown_kind():
    with pytest.raises(TypeError, match='int'):
        to_bitmaps(3)


def test_draw_instances__paints_the_mask_and_nothing_else():
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    drawn = draw_instances(
        image, np.zeros((1, 4)), names=[''], colors=[(200, 0, 0)], masks=MASK, alpha=0.5
    )
    np.testing.assert_array_equal(drawn[15, 15], [150, 50, 50])
    np.testing.assert_array_equal(drawn[30, 40], [100, 100, 100])
    assert (image == 100).all(), 'the input was painted over'


@pytest.mark.parametrize('masks', KINDS.values(), ids=KINDS)
def test_draw_instances__refuses_masks_of_another_size(masks):
    image = np.zeros((60, 40, 3), dtype=np.uint8)
    with pytest.raises(
        ValueError, match=r'masks of \(h, w\) \(40, 60\) for an image of \(60, 40\)'
    ):
        draw_instances(image, np.zeros((1, 4)), names=[''], colors=[(9, 9, 9)], masks=masks)


def test_draw_instances__box_edges():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    drawn = draw_instances(image, np.array([[5.0, 20, 50, 35]]), names=[''], colors=[(9, 8, 7)])
    np.testing.assert_array_equal(drawn[35, 30], [9, 8, 7])
    np.testing.assert_array_equal(drawn[30, 30], [0, 0, 0])


def instances(**extra):
    return InstanceData(
        bboxes=torch.tensor([[5.0, 10, 25, 20]]),
        labels=torch.tensor([0]),
        masks=KINDS['rle'],
        **extra,
    )


@pytest.mark.parametrize('score, is_drawn', [(0.9, True), (0.1, False)], ids=['high', 'low'])
def test_visualizer__truth_left_and_confident_predictions_right(tmp_path, score, is_drawn):
    visualizer = InstanceVisualizer(name=f'draw-{score}', line_width=1)
    visualizer.dataset_meta = dict(classes=('hole',), palette=[(250, 0, 0)])
    sample = DetDataSample(
        gt_instances=instances(), pred_instances=instances(scores=torch.tensor([score]))
    )
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    out_file = tmp_path / 'drawn.png'
    visualizer.add_datasample('x', image, sample, out_file=str(out_file), pred_score_thr=0.3)
    drawn = cv2.imread(str(out_file))
    assert drawn.shape == (40, 120, 3)
    assert (drawn[:, :60] != 100).any()
    assert (drawn[:, 60:] != 100).any() == is_drawn


def test_visualizer__image_without_objects():
    visualizer = InstanceVisualizer(name='empty')
    empty = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), masks=[]
    )
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    visualizer.add_datasample('x', image, DetDataSample(gt_instances=empty), draw_pred=False)
    np.testing.assert_array_equal(visualizer.get_image(), image)
