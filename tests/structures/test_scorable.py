"""What cannot be scored in a COCO file, against what pycocotools itself makes of it."""

import copy

import pycocotools.mask as coco_mask
import pytest

from mmext.structures.scorable import mask_fault, scoring_faults

SIZE = (30, 40)
TRIANGLE = [0, 0, 9, 0, 9, 9]
CODE = coco_mask.frPyObjects([TRIANGLE], *SIZE)[0]
CODE['counts'] = CODE['counts'].decode()
BAD_POLYGON = 'a polygon that is not three or more points'
OTHER_SIZE = 'a run-length mask of another size than its image'
OBJECT = dict(id=1, image_id=5, bbox=[0, 0, 9, 9], segmentation=[TRIANGLE])
SOUND = dict(images=[dict(id=5, height=30, width=40)], annotations=[OBJECT])


def pycocotools_reads(segmentation: list) -> bool:
    try:
        coco_mask.merge(coco_mask.frPyObjects(segmentation, *SIZE))
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    'polygons',
    [
        [],
        [[]],
        [[1, 1, 9, 9]],
        [[1, 1, 5]],
        [[1, 1, 9, 9], TRIANGLE],
        [[0, 0, 9, 'x', 9, 9]],
        'text',
    ],
    ids=str,
)
def test_mask_fault__finds_what_pycocotools_dies_on(polygons):
    assert not pycocotools_reads(polygons)
    assert mask_fault(polygons, SIZE) == (BAD_POLYGON if polygons else 'no segmentation')


@pytest.mark.parametrize(
    'segmentation', [[TRIANGLE], [TRIANGLE, TRIANGLE], CODE, dict(size=[30, 40], counts=[1200])]
)
def test_mask_fault__sound_masks(segmentation):
    assert mask_fault(segmentation, SIZE) == ''


@pytest.mark.parametrize(
    ('segmentation', 'fault'),
    [
        (None, 'no segmentation'),
        ([[*TRIANGLE, 4]], BAD_POLYGON),
        ([TRIANGLE, [1, 1, 9, 9]], BAD_POLYGON),
        ([[0, 0, float('nan'), 0, 9, 9]], BAD_POLYGON),
        ([[0, 0, 9, None, 9, 9]], BAD_POLYGON),
        (dict(size=[30, 40]), 'a run-length mask without counts'),
        (dict(size=[30, 40], counts=None), 'a run-length mask without counts'),
        (dict(counts=[1200]), OTHER_SIZE),
        (dict(size=[40, 30], counts=[1200]), OTHER_SIZE),
    ],
    ids=[
        'null',
        'odd',
        'second part',
        'nan',
        'null value',
        'no counts',
        'null counts',
        'no size',
        'turned',
    ],
)
def test_mask_fault__masks_that_would_score_wrongly(segmentation, fault):
    assert mask_fault(segmentation, SIZE) == fault


def test_scoring_faults__one_text_a_kind_names_the_first_annotations():
    content = copy.deepcopy(SOUND)
    content['annotations'] += [OBJECT | dict(id=i, segmentation=[]) for i in (2, 3, 4, 5)]
    content['annotations'] += [OBJECT | dict(id=6, segmentation=[[1, 1]])]
    first, second = scoring_faults(content, ['bbox', 'segm'])
    assert first.startswith('4 objects have no segmentation')
    assert first.endswith('annotations 2, 3, 4, ... (4 in all)')
    assert second.startswith('1 objects have a polygon')
    assert second.endswith('annotations 6')


@pytest.mark.parametrize('metrics', [['segm'], ['boundary'], ['bbox', 'boundary']], ids=str)
def test_scoring_faults__of_the_metrics_that_look_at_masks(metrics):
    content = SOUND | dict(annotations=[dict(id=1, image_id=5, bbox=[0, 0, 9, 9])])
    assert len(scoring_faults(content, metrics)) == 1
    assert scoring_faults(content, ['bbox']) == scoring_faults(content, ['proposal']) == []


def test_scoring_faults__objects_of_images_that_are_not_listed_are_not_scored():
    content = SOUND | dict(annotations=[dict(id=1, image_id=77)])
    assert scoring_faults(content, ['bbox', 'segm']) == []
