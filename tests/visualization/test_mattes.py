"""Pictures of mattes."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmext.visualization.mattes import GAP, MatteVisualizer, matte_panel, over_checkerboard


def test_checkerboard__by_hand():
    image = np.full((20, 40, 3), 100, np.uint8)
    alpha = np.zeros((20, 40), np.float32)
    alpha[:, 0], alpha[:, 1] = 1, 0.5
    cut_out = over_checkerboard(image, alpha)
    # Opaque, half, then squares of 16 px: light, dark, light, and the other way round below.
    assert cut_out[0, [0, 1, 2, 16, 32], 0].tolist() == [100, 178, 255, 204, 255]
    assert cut_out[16, [2, 16], 0].tolist() == [204, 255]


@pytest.mark.parametrize('with_truth', [True, False], ids=['truth', 'no-truth'])
def test_panel__photo_truth_prediction_and_cut_out(with_truth):
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    alpha, truth = np.full((30, 50), 0.2, np.float32), np.ones((30, 50), np.float32)
    panel = matte_panel(image, alpha, truth=truth if with_truth else None)
    greys = [255, 51] if with_truth else [51]
    assert panel.shape == (30, 50 * (2 + len(greys)) + GAP * (1 + len(greys)), 3)
    assert (panel[:, :50] == image).all()
    for index, grey in enumerate(greys, start=1):
        left = index * (50 + GAP)
        assert (panel[:, left : left + 50] == grey).all()


def test_panel__large_photos_are_shrunk_and_small_ones_not():
    shapes = [(1, 1), (7, 300), (300, 200)]
    sizes = [
        matte_panel(np.zeros((*s, 3), np.uint8), np.zeros(s, np.float32), max_side=100).shape[:2]
        for s in shapes
    ]
    assert sizes == [(1, 3 + 2 * GAP), (2, 300 + 2 * GAP), (100, 201 + 2 * GAP)]


def test_panel__refuses_mattes_of_another_size():
    with pytest.raises(ValueError, match=r'\(4, 5\).*\(5, 4\)'):
        matte_panel(np.zeros((5, 4, 3), np.uint8), np.zeros((4, 5), np.float32))


def test_visualizer__writes_the_file(tmp_path):
    sample = SegDataSample()
    sample.set_data(
        {name: PixelData(data=torch.ones(1, 6, 9)) for name in ('pred_alpha', 'gt_alpha')}
    )
    path = tmp_path / 'new' / 'photo.png'
    image = np.full((6, 9, 3), (10, 20, 30), np.uint8)
    MatteVisualizer(name='mattes').add_datasample('test', image, sample, out_file=str(path))
    found = cv2.imread(str(path))
    assert found.shape == (6, 4 * 9 + 3 * GAP, 3) and found[0, 0].tolist() == [30, 20, 10]
