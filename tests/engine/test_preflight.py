"""The preflight against wrong set-ups, each made from a sound one by one change; boxes: `test_preflight_boxes`."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmdet.datasets import CocoDataset
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import DefaultScope
from torch import nn

from mmext.engine.hooks import PreflightHook
from mmext.engine.preflight import (
    DatasetFacts,
    check_loaders,
    dataset_facts,
    explain_unbuilt_dataset,
    head_classes,
    leaf_datasets,
    summary,
)
from mmext.engine.preflight_checks import (
    Finding,
    check_num_classes,
    check_vocabulary,
    side_by_side,
)
from tests.tiny import CLASSES, make_tiny_coco, tiny_dataloader


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_tiny_coco(tmp_path, 3, empty=(2,))
    return tmp_path


def edit(root: Path, change: Callable[[dict], object]) -> None:
    """Changes the annotation file in place."""
    path = root / 'train.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def make_dataset(root: Path, **options: object) -> CocoDataset:
    """mmdet's own data set, which accepts every wrong set-up in silence."""
    settings = dict(
        data_root=str(root),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        pipeline=[],
    )
    return CocoDataset(**{**settings, **options})


def errors(dataset: object) -> list[str]:
    return [f.text for f in check_loaders({'train_dataloader': dataset}) if f.is_error]


def warnings(dataset: object) -> list[str]:
    return [f.text for f in check_loaders({'train_dataloader': dataset}) if not f.is_error]


def test_sound_set_up__no_finding(root: Path) -> None:
    assert check_loaders({'train_dataloader': make_dataset(root)}) == []


@pytest.mark.parametrize('loader', ['val_dataloader', 'test_dataloader'])
def test_scored_data__of_normal_photos_only_warns(root: Path, loader: str) -> None:
    """Training on nothing is a mistake, testing the false alarms is not."""
    edit(root, lambda content: content['annotations'].clear())
    dataset = make_dataset(root, test_mode=True)
    assert check_loaders({loader: dataset}) == [
        Finding(
            False, f'{loader}.dataset: no object is annotated: nothing to find, and every AP is -1'
        )
    ]


def test_classes__upper_case(root: Path) -> None:
    (text,) = errors(make_dataset(root, metainfo=dict(classes=('Square', 'Disc'))))
    assert 'train_dataloader.dataset: 2 of 2 classes are not in the annotation file' in text
    assert '    Square *         | square *' in text
    assert "set train_dataloader.dataset.metainfo = dict(classes=('square', 'disc'))" in text


def test_classes__no_metainfo(root: Path) -> None:
    (text,) = errors(make_dataset(root, metainfo=None))
    assert '80 of 80 classes are not in the annotation file' in text
    assert "metainfo = dict(classes=('square', 'disc'))" in text


def test_classes__one_misspelt(root: Path) -> None:
    (text,) = errors(make_dataset(root, metainfo=dict(classes=('square', 'disk'))))
    assert '1 of 2 classes' in text
    assert '    square           | square\n    disk *           | disc *' in text


def test_classes__other_order_would_swap_the_names(root: Path) -> None:
    (text,) = errors(make_dataset(root, metainfo=dict(classes=('disc', 'square'))))
    assert '    square *           | disc' in text.replace('square  ', 'square *')
    assert "metainfo = dict(classes=('square', 'disc'))" in text


def test_classes__a_part_of_the_categories_warns(root: Path) -> None:
    dataset = make_dataset(root, metainfo=dict(classes=('square',)))
    assert errors(dataset) == []
    assert any('categories disc are no classes' in text for text in warnings(dataset))


def test_classes__named_twice(root: Path) -> None:
    (text,) = errors(make_dataset(root, metainfo=dict(classes=('square', 'square'))))
    assert 'metainfo.classes names square more than once' in text


def test_categories__duplicate_names(root: Path) -> None:
    edit(root, lambda content: content['categories'].append(dict(id=9, name='disc')))
    assert any(
        'the annotation file names disc more than once' in text
        for text in errors(make_dataset(root))
    )


def test_annotations__category_id_not_listed(root: Path) -> None:
    edit(root, lambda content: content['annotations'][0].update(category_id=7))
    (text,) = errors(make_dataset(root))
    assert '1 annotations have a category_id' in text
    assert 'does not list: 7; listed are 1, 2' in text


def test_images__missing_on_disk(root: Path) -> None:
    (root / 'images' / 'train_1.png').unlink()
    (text,) = errors(make_dataset(root))
    assert '1 of 3 images are not on disk' in text
    assert 'train_1.png' in text


def test_images__annotation_file_of_another_split(root: Path) -> None:
    edit(
        root,
        lambda content: [
            image.update(file_name=f'val/{i}.png') for i, image in enumerate(content['images'])
        ],
    )
    (text,) = errors(make_dataset(root))
    assert '3 of 3 images are not on disk' in text
    assert 'whether ann_file is of this split' in text


def test_annotation_file__no_json(root: Path) -> None:
    dataset = make_dataset(root)
    (root / 'train.json').write_text('<html>')
    with pytest.raises(
        ValueError,
        match=r'train_dataloader\.dataset\.ann_file: .*train\.json is not JSON',
    ):
        check_loaders({'train_dataloader': dataset})


def test_splits__shared_images_warn(root: Path) -> None:
    datasets = {
        'train_dataloader': make_dataset(root),
        'val_dataloader': make_dataset(root, test_mode=True),
    }
    (finding,) = check_loaders(datasets)
    assert finding == Finding(
        False, '3 of 3 images of val_dataloader are training images too; the score will flatter'
    )


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ({}, '4 of 4 annotated boxes (square 2, disc 2)'),
        (dict(bbox=[3, 3, 0.2, 5]), '3 of 4 annotated boxes (square 1, disc 2)'),
        (dict(iscrowd=1), '3 of 4 annotated boxes (square 1, disc 2)'),
    ],
    ids=['all', 'one too small', 'one crowd'],
)
def test_summary__images_boxes_and_label_histogram(root: Path, change: dict, text: str) -> None:
    edit(root, lambda content: content['annotations'][0].update(change))
    facts = dataset_facts('train_dataloader.dataset', make_dataset(root))
    assert summary(facts) == f'preflight train_dataloader.dataset: 3 images, {text}'


def test_summary__data_without_boxes() -> None:
    facts = DatasetFacts('x', (), ['a.png', 'b.png'], None, None, None, True)
    assert summary(facts) == 'preflight x: 2 images'


@pytest.mark.parametrize(
    ('wrap', 'places'),
    [
        (lambda d: RepeatDataset(d, 2), ['x.dataset']),
        (lambda d: ClassBalancedDataset(d, 0.1), ['x.dataset']),
        (
            lambda d: ConcatDataset([d, d]),
            ['x.datasets[0]', 'x.datasets[1]'],
        ),
    ],
    ids=['repeat', 'balanced', 'concat'],
)
def test_leaf_datasets__inside_wrappers(root: Path, wrap: Callable, places: list[str]) -> None:
    dataset = make_dataset(root)
    leaves = list(leaf_datasets(wrap(dataset), 'x'))
    assert [place for place, _ in leaves] == places
    assert all(leaf is dataset for _, leaf in leaves)


class Head(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes


def test_num_classes__of_every_head_but_class_agnostic_ones() -> None:
    model = nn.ModuleDict(
        dict(backbone=Head(1000), rpn_head=Head(1), bbox_head=Head(2), mask_head=Head(80))
    )
    assert head_classes(model) == {'bbox_head': 2, 'mask_head': 80}
    (finding,) = check_num_classes(head_classes(model), CLASSES)
    assert finding.is_error
    assert 'set model.mask_head.num_classes=2' in finding.text
    assert 'bbox_head' not in finding.text


def test_hook__stops_on_wrong_num_classes_and_names_all_mistakes(root: Path) -> None:
    dataset = make_dataset(root, metainfo=dict(classes=('Square', 'Disc')))
    runner = SimpleNamespace(
        model=nn.ModuleDict(dict(bbox_head=Head(80))),
        train_dataloader=SimpleNamespace(dataset=dataset),
        val_loop=None,
    )
    with pytest.raises(ValueError, match='preflight found 2 mistakes') as caught:
        PreflightHook().before_train(runner)
    assert '1. train_dataloader.dataset: 2 of 2 classes' in str(caught.value)
    assert '2. the data has 2 classes, the model has not' in str(caught.value)


def test_explain_unbuilt__filter_leaves_no_image(root: Path) -> None:
    cfg = tiny_dataloader(root)['dataset']
    cfg.update(metainfo=dict(classes=('Square', 'Disc')), filter_cfg=dict(filter_empty_gt=True))
    wrapped = dict(type='RepeatDataset', times=2, dataset=cfg)
    with (
        DefaultScope.overwrite_default_scope('mmdet'),
        pytest.raises(ValueError, match=r'train_dataloader\.dataset\.dataset: 2 of 2 classes'),
    ):
        explain_unbuilt_dataset(wrapped, 'train_dataloader.dataset')


def test_side_by_side__marks_differences_and_cuts_long_lists() -> None:
    table = side_by_side('left', ['a', 'b'], 'right', ['a', *map(str, range(20))])
    lines = table.splitlines()
    assert lines[:3] == ['    left | right', '    a    | a', '    b *  | 0 *']
    assert len(lines) == 1 + 12 + 1
    assert lines[-1] == '         | ...'


def test_vocabulary__texts_in_another_order_than_the_classes_are_an_error():
    assert check_vocabulary(None, CLASSES) == check_vocabulary(list(CLASSES), CLASSES) == []
    swapped = [CLASSES[1], CLASSES[0], *CLASSES[2:]]
    for wrong in (swapped, CLASSES[:-1]):
        (finding,) = check_vocabulary(wrong, CLASSES)
        assert finding.is_error and 'set model.text.classes=' in finding.text
