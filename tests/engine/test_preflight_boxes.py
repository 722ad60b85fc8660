"""The preflight against wrong boxes: counted where the data set goes on without them, refused where nothing can."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmengine.registry import DefaultScope
from torch import nn

from mmext.datasets import InstanceDataset
from mmext.engine.hooks import PreflightHook
from mmext.engine.preflight import PreflightError, explain_unbuilt_dataset
from tests.engine.test_preflight import edit, errors, make_dataset, warnings
from tests.tiny import CLASSES, make_tiny_coco, tiny_dataloader

MALFORMED = ([1, 2, 3], [1, 2, 'x', 4], None, [1, 2, float('nan'), 4])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_tiny_coco(tmp_path, 3, empty=(2,))
    return tmp_path


def make_strict(root: Path, **options: object) -> InstanceDataset:
    """Our data set, which goes on without what it cannot use."""
    return InstanceDataset(
        data_root=str(root),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        **options,
    )


def num_loaded(dataset: CocoDataset) -> int:
    return sum(len(dataset.get_data_info(index)['instances']) for index in range(len(dataset)))


@pytest.mark.parametrize('box', MALFORMED, ids=['three', 'text', 'null', 'nan'])
def test_boxes__malformed_are_counted_as_the_data_set_does(root: Path, box: object) -> None:
    edit(root, lambda content: content['annotations'][1].update(bbox=box))
    dataset = make_strict(root)
    assert num_loaded(dataset) == 4 - 1
    assert errors(dataset) == []
    assert warnings(dataset) == [
        'train_dataloader.dataset: 1 boxes are not four numbers and are dropped; annotation ids 2'
    ]


def test_boxes__mostly_malformed_stop_the_run(root: Path) -> None:
    def change(content: dict) -> None:
        for annotation, box in zip(content['annotations'][:3], MALFORMED, strict=False):
            annotation['bbox'] = box

    edit(root, change)
    (text,) = errors(make_strict(root))
    assert '3 of 4 boxes' in text
    assert 'not four numbers' in text


@pytest.mark.parametrize('box', MALFORMED[:3], ids=['three', 'text', 'null'])
def test_explain_unbuilt__boxes_that_mmdet_cannot_read(root: Path, box: object) -> None:
    edit(root, lambda content: content['annotations'][1].update(bbox=box))
    message = (
        r'train_dataloader\.dataset: CocoDataset cannot load .*train\.json \(.*Error: .*\), and 1 of its boxes '
        r'are not four numbers; annotation ids 2\. Mend them'
    )
    with (
        DefaultScope.overwrite_default_scope('mmdet'),
        pytest.raises(PreflightError, match=message),
    ):
        explain_unbuilt_dataset(tiny_dataloader(root)['dataset'], 'train_dataloader.dataset')


def check_validation(root: Path, metric: str) -> None:
    """The preflight of a validation whose metric reads the file of the data set."""
    head = nn.Module()
    head.num_classes = 2
    runner = SimpleNamespace(
        model=nn.ModuleDict(dict(bbox_head=head)),
        val_dataloader=SimpleNamespace(dataset=make_strict(root, test_mode=True)),
        val_evaluator=SimpleNamespace(
            metrics=[CocoMetric(ann_file=str(root / 'train.json'), metric=metric)]
        ),
        cfg={},
    )
    PreflightHook().before_val(runner)


def test_boxes__malformed_stop_a_validation_that_scores_boxes(root: Path) -> None:
    edit(root, lambda content: content['annotations'][1].update(bbox=[1, 2, 3]))
    check_validation(root, 'segm')
    with pytest.raises(
        PreflightError, match=r'val_evaluator\.ann_file: 1 objects have a box .* the annotations 2$'
    ):
        check_validation(root, 'bbox')


@pytest.mark.parametrize('make', [make_dataset, make_strict], ids=['mmdet', 'mmext'])
def test_annotations__image_id_not_listed_is_counted(root: Path, make) -> None:
    edit(root, lambda content: content['annotations'][0].update(image_id=70))
    dataset = make(root)
    assert num_loaded(dataset) == 4 - 1
    assert errors(dataset) == []
    (text,) = warnings(dataset)
    assert '1 annotations have a image_id that `images` of the annotation file' in text
    assert 'does not list: 70; listed are 0, 1, 2; they are left out' in text


def test_boxes__a_class_without_any_warns(root: Path) -> None:
    edit(root, lambda content: [content['annotations'].pop(index) for index in (3, 1)])
    dataset = make_dataset(root)
    assert errors(dataset) == []
    assert warnings(dataset) == ['train_dataloader.dataset: no box of the classes disc']


def test_boxes__none_survives(root: Path) -> None:
    edit(root, lambda content: content['annotations'].clear())
    (text,) = errors(make_dataset(root))
    assert 'no box survives loading (3 images)' in text


def test_boxes__outside_flat_and_over_the_edge_are_counted(root: Path) -> None:
    def change(content: dict) -> None:
        boxes = [[100, 100, 5, 5], [3, 3, 0.2, 5], [60, 60, 20, 20], [5, 5, 20, 20]]
        for annotation, box in zip(content['annotations'], boxes, strict=True):
            annotation['bbox'] = box
        # Four boxes of four would be too many wrong ones.
        content['annotations'] += [dict(content['annotations'][3], id=10 + i) for i in range(2)]

    edit(root, change)
    dataset = make_dataset(root)
    assert errors(dataset) == []
    texts = warnings(dataset)
    assert any('1 boxes lie outside their image' in text and 'ids 1' in text for text in texts)
    assert any('1 boxes are narrower than one pixel' in text and 'ids 2' in text for text in texts)
    assert any('1 boxes reach over the edge' in text and 'ids 3' in text for text in texts)


def test_boxes__in_fractions_of_the_image(root: Path) -> None:
    def change(content: dict) -> None:
        for annotation in content['annotations']:
            annotation['bbox'] = [value / 64 for value in annotation['bbox']]

    edit(root, change)
    (text,) = errors(make_dataset(root))
    assert '4 of 4 boxes' in text
    assert 'in pixels' in text
