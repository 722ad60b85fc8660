"""Mistakes in maps of classes that mmseg trains on: each is found before the first step, with the line to change."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.dataset import ConcatDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image
from torch import nn

from mmext.engine import preflight_labels
from mmext.engine.preflight import check_loaders
from mmext.engine.preflight_label_checks import MapFacts, judge_maps
from mmext.engine.preflight_labels import check_ignored_label, check_label_maps

WHERE = 'train_dataloader.dataset'


def build(
    root: Path, maps: list[np.ndarray], classes: tuple[str, ...], **options: object
) -> BaseSegDataset:
    """A data set of images of the maps' sizes."""
    for folder in ('images', 'labels'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, values in enumerate(maps):
        Image.new('RGB', values.shape[1::-1]).save(root / 'images' / f'{index}.jpg')
        Image.fromarray(values).save(root / 'labels' / f'{index}.png')
    settings: dict = dict(
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=classes),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
    )
    return BaseSegDataset(**settings | options)


def row(*values: int) -> np.ndarray:
    return np.array([values, values], np.uint8)


AB, ABC = ('background', 'a'), ('wall', 'a', 'b')
# Maps, classes, reduce_zero_label -> words of the only error; None for none.
CASES = {
    'right': ([row(0, 1, 2, 255)], ABC, False, None),
    'right, ADE20K': ([row(0, 1, 2, 3)], ABC, True, None),
    'one class is background': ([row(0, 1, 1)], AB, False, None),
    'beyond': ([row(0, 1), row(0, 7)], ABC, False, 'got labels 7 .*expected 0 to 2 for the 3 classes.*1.png'),
    'ADE20K without reduction': ([row(0, 1, 2, 3)], ABC, False, 'got labels 3 .*reduce_zero_label=True; where it is'),
    'counted from 1': ([row(1, 2, 3)], ABC, False, 'values 1, 2, 3.*reduce_zero_label=True'),
    'beyond, reduced': ([row(0, 1, 2, 5)], ABC, True, 'got labels 4 .*first file.*0.png'),
    'background lost': ([row(0, 0, 1)], AB, True, "=True, the values 0, 1 and 2 classes.*66.7%.*'a' by its place.*False"),
    'first class lost': ([row(0, 1, 2)], ABC, True, "learnt as 'wall', and 'b' never occurs.*=False where value 0 is 'wall'"),
    'masks of 255': ([row(0, 255)], AB, False, 'values 0 and 255 only.*Write 1 instead of 255'),
    'all ignored': ([row(255, 255)], AB, False, 'every pixel of all 1 maps.*by the value 255'),
    'all ignored by reduction': ([row(0, 0)], ABC, True, 'every pixel .*ignores value 0'),
    'one class only': ([row(1, 1), row(1, 255)], ABC, False, "the class 'a' only in the 2 of 2 maps"),
    'colours': ([np.zeros((2, 3, 3), np.uint8)], ABC, False, r'0.png has shape \(2, 3, 3\).*one channel'),
    '16 bits': ([np.array([[0, 1], [256, 1]], np.uint16)], ABC, False, 'has values up to 256; expected one channel'),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_maps__each_mistake_is_named(case: str, tmp_path: Path) -> None:
    maps, classes, reduces, words = CASES[case]
    dataset = build(tmp_path, maps, classes, reduce_zero_label=reduces)
    findings = check_loaders({'train_dataloader': dataset})
    if words is None:
        assert findings == []
        return
    (finding,) = findings
    assert finding.is_error
    assert re.search(f'{WHERE}: .*{words}', finding.text)


def test_maps__what_may_be_so_is_warned_of(tmp_path: Path) -> None:
    dataset = build(tmp_path, [row(0, 1), row(255, 255)], ABC)
    findings = check_label_maps('val_dataloader.dataset', dataset)
    assert [finding.is_error for finding in findings] == [False, False]
    assert 'no pixel of the classes b in the 2 of 2 maps' in findings[0].text
    assert '1 of 2 maps looked at are ignored everywhere' in findings[1].text
    assert '1.png' in findings[1].text
    one = build(tmp_path / 'one', [row(0, 0)], ABC)
    (finding,) = check_label_maps('val_dataloader.dataset', one)
    assert not finding.is_error and "the class 'wall' only" in finding.text


def test_maps__a_rare_last_class_is_no_error_while_maps_are_unseen() -> None:
    stored = {'a.png': Counter({0: 5, 1: 3, 2: 3})}
    loaded = Counter({255: 5, 0: 3, 1: 3})
    facts = MapFacts(WHERE, ABC, True, 255, 2, stored, loaded, [])
    (finding,) = judge_maps(facts)
    assert not finding.is_error and "'b' never occurs" in finding.text
    assert judge_maps(facts._replace(num_maps=1))[0].is_error
    # Of 150 classes a few maps show some only: nothing is said of reduce_zero_label.
    many = facts._replace(classes=tuple(f'class {i}' for i in range(150)))
    assert all('reduce_zero_label' not in own.text for own in judge_maps(many))


def test_maps__a_part_may_show_less_than_the_whole(tmp_path: Path) -> None:
    parts = [
        build(tmp_path / str(index), [row(*values)], ABC)
        for index, values in enumerate([(0, 0), (0, 255), (0, 1, 2)])
    ]
    findings = check_loaders({'train_dataloader': ConcatDataset(parts)})
    assert [finding.is_error for finding in findings] == [False, False]
    assert f"{WHERE}.datasets[0]: got the class 'wall' only" in findings[0].text
    assert f'{WHERE}.datasets[1]: got the values 0 and 255 only' in findings[1].text
    # Nor need a validation set show more than background and crowds.
    (finding,) = check_loaders({'val_dataloader': parts[1]})
    assert not finding.is_error and 'Write 1 instead of 255' in finding.text


class Drop(BaseTransform):
    """Drops the first sample."""

    def transform(self, results: dict) -> dict | None:
        return None if results['sample_idx'] == 0 else results


class OwnLoader(BaseTransform):
    """Loads maps in its own way, of which nobody knows."""

    def transform(self, results: dict) -> dict:
        return dict(results, gt_seg_map=np.random.randint(0, 2, (2, 2)))  # noqa: NPY002


def test_maps__loaded_by_a_step_that_is_not_known(tmp_path: Path) -> None:
    maps = [row(0, 9), row(0, 9)]
    dataset = build(tmp_path, maps, AB)
    dataset.pipeline.transforms = [Drop(), OwnLoader()]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    (finding,) = check_loaders({'train_dataloader': dataset})
    assert not finding.is_error and 'are loaded by OwnLoader, which is no LoadAnn' in finding.text
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    # As a crop that looks for classes: a step that wants maps loads none.
    wanted = [dict(type='mmseg.RandomCrop', crop_size=(2, 2), cat_max_ratio=0.5)]
    cropping = build(tmp_path, maps, AB, pipeline=[dict(type='LoadImageFromFile'), *wanted])
    (finding,) = check_loaders({'train_dataloader': cropping})
    assert finding.is_error and 'no step of the pipeline loads them' in finding.text


def test_maps__a_rare_last_class_gives_wrong_numbers_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_labels, 'NUM_MAPS', 2)
    lines: list[str] = []
    monkeypatch.setattr(preflight_labels, 'print_log', lambda text, *_: lines.append(text))
    maps = [row(0, 1, 2), row(0, 1, 2, 255), row(0, 1, 2), row(0, 3, 1), row(0, 1, 2)]
    dataset = build(tmp_path, maps, ABC)
    (finding,) = check_label_maps(WHERE, dataset)
    assert finding.is_error and 'got labels 3 ' in finding.text
    assert 'set train_dataloader.dataset.reduce_zero_label=True' in finding.text
    assert '5 maps of classes, 2 looked at, 3 others searched' in lines[0]
    (tmp_path / 'labels' / '3.png').write_bytes(b'noise')
    (finding,) = check_label_maps(WHERE, dataset)
    assert finding.is_error and '3.png cannot be loaded' in finding.text
    Image.fromarray(row(0, 1)).save(tmp_path / 'labels' / '3.png')
    Image.new('RGB', (2, 2)).save(tmp_path / 'images' / '3.jpg')
    assert check_label_maps(WHERE, dataset) == []


def test_maps__files_that_do_not_fit(tmp_path: Path) -> None:
    dataset = build(tmp_path, [row(0, 1), row(0, 1)], AB)
    Image.new('RGB', (5, 2)).save(tmp_path / 'images' / '0.jpg')
    (finding,) = check_label_maps(WHERE, dataset)
    assert finding.is_error and '(2, 2) pixels (h, w), its image' in finding.text
    (tmp_path / 'labels' / '0.png').write_bytes(b'noise')
    (finding,) = check_label_maps(WHERE, dataset)
    assert finding.is_error and '0.png cannot be loaded' in finding.text
    (tmp_path / 'labels' / '1.png').unlink()
    (finding,) = check_label_maps(WHERE, dataset)
    assert finding.is_error and '1 of 2 maps of classes are not on disk' in finding.text


def test_maps__pipeline_and_names(tmp_path: Path) -> None:
    maps = [row(0, 1)]
    unloaded = build(tmp_path, maps, AB, pipeline=[dict(type='LoadImageFromFile')])
    (finding,) = check_label_maps(WHERE, unloaded)
    assert finding.is_error and "dict(type='LoadAnnotations')" in finding.text
    assert check_label_maps('test_dataloader.dataset', unloaded) == []
    (finding,) = check_label_maps(WHERE, build(tmp_path, maps, (), metainfo=None))
    assert finding.is_error and 'metainfo = dict(classes=' in finding.text
    # Inside of test-time augmentation, too.
    views = [dict(type='TestTimeAug', transforms=[[dict(type='mmseg.LoadAnnotations')]])]
    (finding,) = check_label_maps(WHERE, build(tmp_path, maps, ('a',), pipeline=views))
    assert finding.is_error and 'got labels 1' in finding.text


@pytest.mark.parametrize('mode', ('P', '1'), ids=('palette', 'one bit'))
def test_maps__palette_and_one_bit_files(mode: str, tmp_path: Path) -> None:
    dataset = build(tmp_path, [row(0, 1)], AB)
    image = Image.new(mode, (2, 2))
    image.putpixel((0, 0), 1)
    image.save(tmp_path / 'labels' / '0.png')
    assert check_label_maps(WHERE, dataset) == []


def test_maps__data_sets_without_are_left_alone() -> None:
    class Boxes:
        metainfo = dict(classes=AB)

        def __len__(self) -> int:
            return 1

        def get_data_info(self, index: int) -> dict:
            return dict(seg_map_path='panoptic.png', instances=[])

    assert check_label_maps(WHERE, Boxes()) == []


def test_padding__is_not_learnt_as_a_class() -> None:
    model = nn.Module()
    model.decode_head = nn.Module()
    model.decode_head.ignore_index = 255
    model.data_preprocessor = nn.Module()
    assert check_ignored_label(model) == []
    model.data_preprocessor.seg_pad_val = 255
    assert check_ignored_label(model) == []
    model.data_preprocessor.seg_pad_val = 0
    (finding,) = check_ignored_label(model)
    assert (
        finding.is_error and 'seg_pad_val=0, and model.decode_head.ignore_index=255' in finding.text
    )
    # Cascades, and several auxiliary heads, are lists; losses are given the label of their head.
    model.decode_head = nn.ModuleList([nn.Module(), nn.Module()])
    model.auxiliary_head = nn.ModuleList([nn.Module()])
    model.decode_head[1].loss_decode = nn.Module()
    for part in (model.decode_head[1], model.decode_head[1].loss_decode, model.auxiliary_head[0]):
        part.ignore_index = 254
    texts = [finding.text for finding in check_ignored_label(model)]
    assert len(texts) == 2 and 'model.decode_head.1.ignore_index=254' in texts[0]
    assert 'model.auxiliary_head.0.ignore_index=254' in texts[1]
    assert check_ignored_label(nn.Linear(1, 1)) == []
