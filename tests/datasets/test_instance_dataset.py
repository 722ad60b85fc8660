"""InstanceDataset: labels, what it keeps, what it refuses, what it warns about."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS as MMDET_DATASETS
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from pycocotools import mask as coco_mask

from mmext.datasets import InstanceDataset
from tests.datasets.raw_data import write_image

MASK = np.zeros((30, 40), np.uint8)
MASK[5:15, 10:30] = 1
MASK[8:10, 15:20] = 0  # a hole
# Column-major run lengths, from the zeros before the first pixel to those behind the last.
_runs = np.flatnonzero(np.diff(MASK.T.ravel(), prepend=0, append=2)).tolist()
RLE_LIST = {'size': [30, 40], 'counts': np.diff([0, *_runs]).tolist()}
RLE_TEXT = coco_mask.encode(np.asfortranarray(MASK))
RLE_TEXT = {'size': [30, 40], 'counts': RLE_TEXT['counts'].decode()}
POLYGON = [[10.0, 5.0, 30.0, 5.0, 30.0, 15.0, 10.0, 15.0]]
LOAD_MASKS = [
    {'type': 'mmext.LoadImage'},
    {'type': 'mmdet.LoadAnnotations', 'with_bbox': True, 'with_mask': True},
]


def _annotation(index: int, image_id: int, category_id: int, bbox: object, **more: object) -> dict:
    base = {'id': index, 'image_id': image_id, 'category_id': category_id, 'bbox': bbox}
    return base | {'area': 200, 'iscrowd': 0, 'segmentation': POLYGON} | more


def _coco() -> dict:
    """Three images 40 x 30; ids with gaps; the last image is empty."""
    return {
        'images': [
            {'id': index, 'file_name': f'{index}.png', 'width': 40, 'height': 30}
            for index in (3, 5, 9)
        ],
        'annotations': [
            _annotation(11, 3, 7, [10, 5, 20, 10]),
            _annotation(12, 5, 2, [10, 5, 20, 10], segmentation=RLE_TEXT),
            _annotation(14, 5, 7, [10, 5, 20, 10], segmentation=RLE_LIST, iscrowd=1),
        ],
        'categories': [{'id': 7, 'name': 'dent'}, {'id': 2, 'name': 'crack'}],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index in (3, 5, 9):
        write_image(tmp_path / 'images' / f'{index}.png', 40, 30, seed=index)
    return tmp_path


def _build(root: Path, coco: object, **settings: object) -> InstanceDataset:
    text = coco if isinstance(coco, str) else json.dumps(coco)
    (root / 'ann.json').write_text(text, encoding='utf-8')
    # mmengine collects garbage after serialising, which takes longer than all the rest.
    base = {'ann_file': 'ann.json', 'data_prefix': {'img': 'images/'}, 'serialize_data': False}
    return InstanceDataset(data_root=str(root), **(base | settings))


@pytest.fixture
def warnings_logged() -> list[str]:
    """Messages of level WARNING that go to the current logger."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Collect(logging.WARNING)
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_classes__from_the_file_in_its_order(root: Path, warnings_logged: list[str]) -> None:
    dataset = _build(root, _coco())
    assert dataset.metainfo['classes'] == ('dent', 'crack')
    assert [dataset.get_cat_ids(index) for index in range(3)] == [[0], [1, 0], []]
    assert warnings_logged == []


def test_labels__equal_those_of_mmdet(root: Path) -> None:
    ours = _build(root, _coco(), metainfo={'classes': ('dent', 'crack')})
    theirs = CocoDataset(
        data_root=str(root),
        ann_file='ann.json',
        data_prefix={'img': 'images/'},
        metainfo={'classes': ('dent', 'crack')},
    )
    assert len(ours) == len(theirs) == 3
    assert (ours.cat_ids, ours.cat2label) == (theirs.cat_ids, theirs.cat2label)
    for index in range(3):
        assert ours.get_data_info(index) == theirs.get_data_info(index)


@pytest.mark.parametrize('classes', [None, ('crack',)], ids=['all classes', 'one class'])
def test_coco_metric__truth_as_prediction_scores_1(classes: tuple | None, root: Path) -> None:
    """Labels and frames are those that the evaluation reads from the same file."""
    metainfo = {'classes': classes} if classes else None
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = _build(root, _coco(), metainfo=metainfo, pipeline=LOAD_MASKS, test_mode=True)
    metric = CocoMetric(ann_file=str(root / 'ann.json'), metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    for sample in (dataset[index] for index in range(len(dataset))):
        prediction = {
            'bboxes': sample['gt_bboxes'].tensor,
            'labels': torch.as_tensor(sample['gt_bboxes_labels']),
            'scores': torch.ones(len(sample['gt_bboxes'])),
            'masks': torch.as_tensor(sample['gt_masks'].masks).bool(),
        }
        shape = {'img_id': sample['img_id'], 'ori_shape': sample['ori_shape']}
        metric.process({}, [shape | {'pred_instances': prediction}])
    scores = metric.evaluate(size=len(dataset))
    assert scores['coco/bbox_mAP'] == pytest.approx(1)
    assert scores['coco/segm_mAP'] == pytest.approx(1)


def test_registry__built_by_name_from_mmdet(root: Path) -> None:
    _build(root, _coco())
    config = {'type': 'mmext.InstanceDataset', 'ann_file': str(root / 'ann.json')}
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = MMDET_DATASETS.build(config | {'data_prefix': {'img': str(root / 'images')}})
    assert len(dataset) == 3


@pytest.mark.parametrize('serialize', [True, False])
def test_pipeline__masks_from_polygon_text_and_list(serialize: bool, root: Path) -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = _build(root, _coco(), pipeline=LOAD_MASKS, serialize_data=serialize)
    assert (dataset.data_list == []) == serialize
    first, second, empty = (dataset[index] for index in range(3))
    filled = MASK.copy()
    filled[8:10, 15:20] = 1
    np.testing.assert_array_equal(first['gt_masks'].masks, filled[None])
    np.testing.assert_array_equal(second['gt_masks'].masks, np.stack([MASK, MASK]))
    assert second['gt_ignore_flags'].tolist() == [False, True]
    assert first['gt_bboxes'].tensor.tolist() == [[10, 5, 30, 15]]
    assert empty['gt_masks'].masks.shape == (0, 30, 40)
    assert empty['gt_bboxes'].tensor.shape == (0, 4)
    assert empty['gt_bboxes_labels'].shape == (0,)


def test_images_without_objects__stay_unless_filtered(root: Path) -> None:
    assert len(_build(root, _coco())) == 3
    assert len(_build(root, _coco(), filter_cfg={'filter_empty_gt': True})) == 2
    assert len(_build(root, _coco(), filter_cfg={'filter_empty_gt': True}, test_mode=True)) == 3
    assert len(_build(root, _coco(), filter_cfg={'min_size': 30})) == 3


def test_no_image_left__is_refused(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"filter_cfg {'min_size': 31} leaves none of the 3 images of .*ann"
    ):
        _build(root, _coco(), filter_cfg={'min_size': 31})
    with pytest.raises(ValueError, match='ann.json lists no images'):
        _build(root, _coco() | {'images': []}, test_mode=True)


def test_filter__counts_objects_that_were_left_out(root: Path) -> None:
    coco = _coco()
    coco['annotations'][0]['bbox'] = [5, 5, 0, 4]
    assert len(_build(root, coco, filter_cfg={'filter_empty_gt': True})) == 1


def test_class_balanced__repeats_rare_classes_and_keeps_empty_images_once(root: Path) -> None:
    coco = _coco()
    coco['annotations'] = [_annotation(1, 3, 7, [10, 5, 20, 10])]
    dataset = _build(root, coco)
    config = {'type': 'ClassBalancedDataset', 'dataset': dataset, 'oversample_thr': 3.0}
    balanced = MMDET_DATASETS.build(config)
    # sqrt(3 / (1 / 3)) = 3 times
    assert [balanced.get_data_info(index)['img_id'] for index in range(len(balanced))] == [
        3,
        3,
        3,
        5,
        9,
    ]


def test_subset_of_classes__other_objects_are_left_out_and_counted(
    root: Path, warnings_logged: list[str]
) -> None:
    dataset = _build(root, _coco(), metainfo={'classes': ('crack',)})
    assert [dataset.get_cat_ids(index) for index in range(3)] == [[], [0], []]
    (message,) = warnings_logged
    assert '2 x object of a category that is not among the classes, left out' in message
    assert '3.png (annotation 11: dent)' in message
    assert str(root / 'ann.json') in message


@pytest.mark.parametrize(
    ('change', 'kind', 'num_left'),
    [
        ({'bbox': [10, 5, 0, 10]}, 'box smaller than one pixel, left out', 2),
        ({'bbox': [10, 5, 20, 0]}, 'box smaller than one pixel, left out', 2),
        ({'bbox': [10, 5, -4, 10]}, 'box smaller than one pixel, left out', 2),
        ({'bbox': [0.2, 0.2, 0.5, 0.5]}, 'box smaller than one pixel, left out', 2),
        ({'bbox': [50, 5, 10, 10]}, 'box outside the image, left out', 2),
        ({'bbox': [1, 2, 3]}, 'box that is not four numbers, left out', 2),
        ({'bbox': [1, 2, 'x', 4]}, 'box that is not four numbers, left out', 2),
        ({'bbox': [1, 2, float('nan'), 4]}, 'box that is not four numbers, left out', 2),
        ({'bbox': [30, 5, 20, 10]}, 'box reaches outside the image, clipped', 3),
        (
            {'segmentation': [[1, 1, 9, 9]]},
            'polygon that is not three or more points, object left out',
            2,
        ),
        (
            {'segmentation': [[1, 1, 9, 9, 5]]},
            'polygon that is not three or more points, object left out',
            2,
        ),
        (
            {'segmentation': [[1, 1, 9, 'x', 5, 5]]},
            'polygon that is not three or more points, object left out',
            2,
        ),
        (
            {'segmentation': [*POLYGON, [1, 1, 9, 9]]},
            'polygon that is not three or more points, that part left out',
            3,
        ),
        ({'segmentation': {'size': [30, 40]}}, 'run-length mask without counts, left out', 2),
        ({'segmentation': RLE_LIST | {'size': [40, 30]}}, 'run-length mask of another size', 2),
        ({'image_id': 77}, 'annotation of an image that is not listed, left out', 2),
    ],
)
def test_bad_object__is_left_out_or_mended_with_one_warning(
    change: dict, kind: str, num_left: int, root: Path, warnings_logged: list[str]
) -> None:
    coco = _coco()
    coco['annotations'][0] |= change
    dataset = _build(root, coco)
    assert sum(len(dataset.get_cat_ids(index)) for index in range(3)) == num_left
    assert len(dataset) == 3
    (message,) = warnings_logged
    assert f'ann.json: 1 problems\nwarning: 1 x {kind}' in message
    assert 'annotation 11' in message


def test_bad_objects__one_warning_counts_them_all(root: Path, warnings_logged: list[str]) -> None:
    coco = _coco()
    zero = [_annotation(100 + index, 3, 7, [index, 5, 0, 3]) for index in range(8)]
    two_points = [_annotation(200, 5, 7, [1, 1, 5, 5], segmentation=[[1, 1, 2, 2]])]
    coco['annotations'] += zero + two_points
    _build(root, coco)
    (message,) = warnings_logged
    assert 'warning: 8 x box smaller than one pixel' in message and '... and 3 more' in message
    assert 'warning: 1 x polygon that is not three or more points' in message
    assert '3.png (annotation 100: [0, 5, 0, 3])' in message


def test_box_over_the_edge__is_clipped(root: Path) -> None:
    coco = _coco()
    coco['annotations'][0]['bbox'] = [-5, -2, 100, 12]
    (instance,) = _build(root, coco).get_data_info(0)['instances']
    assert instance['bbox'] == [0, 0, 40, 10]


def test_objects_without_masks__matter_only_where_masks_are_loaded(
    root: Path, warnings_logged: list[str]
) -> None:
    coco = _coco()
    coco['annotations'][0]['segmentation'] = []
    assert _build(root, coco).get_cat_ids(0) == [0]
    assert warnings_logged == []
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = _build(root, coco, pipeline=LOAD_MASKS)
    assert dataset[0]['gt_masks'].masks.shape == (0, 30, 40)
    assert '1 x object without a mask, left out\n    3.png (annotation 11)' in warnings_logged[0]


def _without(key: str, entry: int | None = None, where: str = '') -> dict:
    coco = _coco()
    del (coco if entry is None else coco[where][entry])[key]
    return coco


def _with(where: str, entry: int, **change: object) -> dict:
    coco = _coco()
    coco[where][entry] |= change
    return coco


@pytest.mark.parametrize(
    ('coco', 'message'),
    [
        ('{"images": [', 'is not JSON .* truncated or of another format'),
        ('', 'is not JSON'),
        ('[]', 'is no COCO annotation file: got a JSON list'),
        (_without('categories'), "has no list 'categories'"),
        (_without('annotations'), '`"annotations": ' + r'\[\]`'),
        (_without('file_name', 1, 'images'), r"entry 1 of 'images' lacks \['file_name'\]"),
        (_without('bbox', 0, 'annotations'), r"entry 0 of 'annotations' lacks \['bbox'\]"),
        (_with('annotations', 1, id=11), "the id 11 occurs twice in 'annotations'"),
        (_with('images', 1, id=3), "the id 3 occurs twice in 'images'"),
        (_with('categories', 1, id=7), "the id 7 occurs twice in 'categories'"),
        (_with('categories', 1, name='dent'), r"the category names \['dent'\] more than once"),
        (_with('annotations', 1, category_id=4), r'1 annotations have the category ids \[4\]'),
    ],
)
def test_bad_file__error_names_it(coco: dict | str, message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        _build(root, coco)
    assert str(root / 'ann.json') in str(error.value)


def test_missing_file__error_names_it(root: Path) -> None:
    with pytest.raises(
        ValueError, match='no.json does not exist. Check `data_root` and `ann_file`'
    ):
        _build(root, _coco(), ann_file='no.json')
    with pytest.raises(ValueError, match='is a folder'):
        _build(root, _coco(), ann_file='images')


def test_evaluation__needs_area_and_iscrowd(root: Path) -> None:
    coco = _without('area', 2, 'annotations')
    assert len(_build(root, coco)) == 3
    with pytest.raises(ValueError, match=r"entry 2 of 'annotations' lacks \['area'\]"):
        _build(root, coco, test_mode=True)


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (
            ('dent', 'Crack'),
            r"classes \['Crack'\] are not among.*\n.*'dent', 'Crack'\]\n.*'dent', 'crack'\]",
        ),
        (('crack', 'dent'), r"another order than in.*\n.*'crack', 'dent'\]\n.*'dent', 'crack'\]"),
        ('dent', r"a string. Write a tuple: classes=\('dent',\)"),
        (('dent', 'dent'), 'names a class twice'),
    ],
    ids=['unknown', 'order', 'string', 'twice'],
)
def test_wrong_classes__names_stand_side_by_side(classes: object, message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        _build(root, _coco(), metainfo={'classes': classes})


@pytest.mark.parametrize('test_mode', [False, True])
def test_wrong_split__no_image_on_disk(test_mode: bool, root: Path) -> None:
    coco = _coco()
    for image in coco['images']:
        image['file_name'] = 'other_' + image['file_name']
    with pytest.raises(
        ValueError, match='3 of the 3 images of .*ann.json are not on disk'
    ) as error:
        _build(root, coco, test_mode=test_mode)
    assert str(root / 'images' / 'other_3.png') in str(error.value)
    assert 'whether the annotation file is of this split' in str(error.value)


def test_missing_image__left_out_in_training_refused_in_evaluation(
    root: Path, warnings_logged: list[str]
) -> None:
    (root / 'images' / '5.png').unlink()
    dataset = _build(root, _coco())
    assert [dataset.get_data_info(index)['img_id'] for index in range(2)] == [3, 9]
    assert '1 x image not on disk, left out' in warnings_logged[0]
    assert str(root / 'images' / '5.png') in warnings_logged[0]
    with pytest.raises(ValueError, match='1 of the 3 images'):
        _build(root, _coco(), test_mode=True)


def test_filter_cfg__mistyped_key(root: Path) -> None:
    with pytest.raises(ValueError, match=r"keys \['filter_empty'\]; known are \['filter_empty_gt'"):
        _build(root, _coco(), filter_cfg={'filter_empty': True})


def test_lazy_init__reads_nothing(root: Path) -> None:
    dataset = _build(root, 'no json', lazy_init=True)
    with pytest.raises(ValueError, match='is not JSON'):
        dataset.full_init()
