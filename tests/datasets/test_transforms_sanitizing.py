"""DropSmallObjects: box, label, flag and mask leave together."""

import numpy as np
import pytest
from mmdet.structures.bbox import HorizontalBoxes

from mmext.datasets.transforms import DropSmallObjects
from tests.datasets.ellipses import Ellipse, make_sample


def _sample(masks: str) -> dict:
    ellipses = tuple(Ellipse(20 + 30 * i, 40, 10, 5) for i in range(5))
    sample = make_sample(100, 160, ellipses, masks=masks)
    sample['gt_bboxes'] = HorizontalBoxes(
        np.float32(
            [[0, 0, 8, 8], [0, 0, 7.9, 50], [-5, 0, 4, 50], [150, 90, 190, 130], [3, 3, 3, 3]]
        )
    )
    sample['gt_ignore_flags'] = np.array([False, True, False, True, False])
    return sample


@pytest.mark.parametrize('masks', ['bitmap', 'polygon', 'none'])
def test_drop_small__all_of_an_object_leaves(masks):
    before = _sample(masks)
    planes = None if masks == 'none' else before['gt_masks'].to_ndarray().copy()
    results = DropSmallObjects(min_side=8)(before)
    assert results['gt_bboxes'].tensor.tolist() == [[0, 0, 8, 8], [150, 90, 160, 100]]
    assert results['gt_bboxes_labels'].tolist() == [0, 3]
    assert results['gt_ignore_flags'].tolist() == [False, True]
    if planes is not None:
        assert (results['gt_masks'].masks == planes[[0, 3]]).all()


def test_drop_small__a_sample_that_loses_all_stays_as_background():
    results = DropSmallObjects(min_side=100)(_sample('bitmap'))
    assert len(results['gt_bboxes']) == len(results['gt_masks']) == 0
    assert len(DropSmallObjects()(results)['gt_bboxes_labels']) == 0


def test_drop_small__images_without_annotation_pass():
    assert set(DropSmallObjects()({'img': np.zeros((2, 2, 3), np.uint8)})) == {'img'}


def test_drop_small__wrong_settings():
    with pytest.raises(ValueError, match='min_side=0'):
        DropSmallObjects(min_side=0)
