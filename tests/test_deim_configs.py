"""The DEIMv2 configs against the published recipe, number by number, and against a change of their length."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmext.engine.config_options import walk_settings
from mmext.engine.preflight_recipe import Length, check_lengths
from mmext.models.deim.groups import default_groups, published_groups
from mmext.models.deim.variants import VARIANTS
from tests.test_configs import CONFIGS

FOLDER = CONFIGS / 'deim'
DEIM = sorted(FOLDER.glob('deimv2_*.py'))

# Section 6 of the design notes, from the released configs.
COLUMNS = (
    'batch rate backbone_rate decay epochs flat gamma no_aug strong_begin mosaic_end strong_end mosaic_prob '
    'mixup copyblend copyblend_prob stop change repeat min_side warmup'
).split()
PUBLISHED: dict[str, tuple] = {
    'atto': (128, 2e-3, 1e-3, 1e-4, 500, 250, 0.5, 32, 4, 250, 400, 0.3,
             None, None, None, 468, 450, None, 12, 4000),
    'femto': (128, 1.6e-3, 8e-4, 1e-4, 500, 250, 0.5, 32, 4, 250, 400, 0.5,
              None, None, None, 468, 450, None, 10, 4000),
    'pico': (128, 1.6e-3, 8e-4, 1e-4, 500, 250, 0.5, 32, 4, 250, 400, 0.5,
             None, None, None, 468, 450, None, 8, 4000),
    # Published as flat for 7800 epochs: the rate never falls.
    'n': (32, 8e-4, 4e-4, 1e-4, 160, None, 1.0, 12, 4, 78, 148, 0.5,
          (4, 78), (4, 78), 0.4, 148, 136, None, 1, 2000),
    's': (32, 5e-4, 2.5e-5, 1e-4, 132, 64, 0.5, 12, 4, 64, 120, 0.5,
          (4, 64), (4, 120), 0.5, 120, 100, 20, 1, 2000),
    'm': (32, 5e-4, 2.5e-5, 1e-4, 102, 49, 0.5, 12, 4, 49, 90, 0.5,
          (4, 49), (4, 90), 0.5, 90, 80, 6, 1, 2000),
    'l': (32, 5e-4, 1.25e-5, 1.25e-4, 68, 34, 0.5, 8, 4, 34, 60, 0.5,
          (4, 34), (4, 60), 0.5, 60, 50, 3, 1, 2000),
    'x': (32, 5e-4, 1e-5, 1.25e-4, 58, 29, 0.5, 8, 4, 29, 50, 0.5,
          (4, 29), (4, 50), 0.5, 50, 45, 3, 1, 2000),
    'hgs': (32, 4e-4, 2e-4, 1e-4, 132, 64, 0.5, 12, 4, 64, 120, 0.5,
            (4, 64), (4, 120), 0.5, 120, 100, 20, 1, 2000),
    'hgm': (32, 4e-4, 4e-5, 1e-4, 102, 49, 0.5, 12, 4, 49, 90, 0.5,
            (4, 49), (4, 90), 0.5, 90, 80, 6, 1, 2000),
    'hgl': (32, 5e-4, 2.5e-5, 1.25e-4, 58, 29, 0.5, 8, 4, 29, 50, 0.5,
            (4, 29), (4, 50), 0.5, 50, 45, 4, 1, 2000),
    'hgx': (32, 5e-4, 5e-6, 1.25e-4, 58, 29, 0.5, 8, 4, 29, 50, 0.5,
            (4, 29), (4, 50), 0.5, 50, 45, 3, 1, 2000),
}  # fmt: skip
every_size = pytest.mark.parametrize('name', PUBLISHED)


@functools.cache
def load(name: str) -> Config:
    """A shipped config, not to be changed."""
    return Config.fromfile(FOLDER / f'deimv2_{name}.py')


def found_in(value: Any, kind: str) -> list[dict]:
    """The parts of a type below a value, in order."""
    parts = []
    if isinstance(value, dict):
        parts = [value] if value.get('type') == kind else []
        value = list(value.values())
    if isinstance(value, list | tuple):
        parts += [part for child in value for part in found_in(child, kind)]
    return parts


def only(value: Any, kind: str) -> dict:
    """The one part of a type."""
    (part,) = found_in(value, kind)
    return part


def recipe(cfg: Config, num_gpus: int) -> dict[str, Any]:
    """The numbers of a config, by the names of the columns."""
    data, model = cfg.train_dataloader.dataset.pipeline, cfg.model
    schedule = only(cfg.param_scheduler, 'mmext.FlatCosineLR')
    assert schedule['end'] == cfg.train_cfg.max_epochs and schedule['convert_to_iter_based']
    augments = model.data_preprocessor.get('batch_augments', [])
    mixup, copyblend, sizes = (
        (found_in(augments, f'mmext.Batch{kind}') or [{}])[0]
        for kind in ('MixUp', 'CopyBlend', 'RandomSize')
    )
    assert mixup.get('prob', 0.5) == 0.5
    stop = only(cfg.custom_hooks, 'mmext.StageTwoHook')['stop_epoch']
    assert not sizes or (tuple(sizes['epochs']), sizes['base_size']) == ((0, stop), 640)
    mosaic, strong = found_in(data, 'mmext.InEpochs')
    assert mosaic['epochs'][0] == strong['epochs'][0]
    (min_side,) = {part['min_side'] for part in found_in(data, 'mmext.DropSmallObjects')}
    assert cfg.train_dataloader.batch_size * num_gpus == cfg.auto_scale_lr.base_batch_size
    return dict(
        batch=cfg.auto_scale_lr.base_batch_size,
        rate=cfg.optim_wrapper.optimizer.lr,
        backbone_rate=cfg.optim_wrapper.paramwise_cfg.patterns[0].lr,
        decay=cfg.optim_wrapper.optimizer.weight_decay,
        epochs=cfg.train_cfg.max_epochs,
        flat=None if schedule['gamma'] == 1 else schedule['flat'],
        gamma=schedule['gamma'],
        no_aug=schedule['no_aug'],
        strong_begin=strong['epochs'][0],
        mosaic_end=mosaic['epochs'][1],
        strong_end=strong['epochs'][1],
        mosaic_prob=only(mosaic, 'mmext.GridMosaic')['prob'],
        mixup=tuple(mixup['epochs']) if mixup else None,
        copyblend=tuple(copyblend['epochs']) if copyblend else None,
        copyblend_prob=copyblend.get('prob'),
        stop=stop,
        change=model.criterion.matcher.change_epoch,
        repeat=sizes.get('repeat'),
        min_side=min_side,
        warmup=schedule['warmup'],
    )


@every_size
def test_coco__recipe_as_published(name: str) -> None:
    cfg = load(f'{name}_coco')
    assert recipe(cfg, num_gpus=4) == dict(zip(COLUMNS, PUBLISHED[name], strict=True))
    optim = cfg.optim_wrapper
    assert (optim.optimizer.type, optim.optimizer.betas) == ('AdamW', (0.9, 0.999))
    assert optim.clip_grad == dict(max_norm=0.1)
    average = only(cfg.custom_hooks, 'mmext.StepEMAHook')
    # 0.9999 (1 - e^(-u / 1000)), of buffers too.
    assert (average['momentum'], average['gamma'], average['update_buffers']) == (1e-4, 1000, True)


@every_size
def test_coco__images_as_published(name: str) -> None:
    cfg, side = load(f'{name}_coco'), VARIANTS[name].input_size
    train, test = cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline
    for pipeline in (train, test):
        resize = only(pipeline, 'mmdet.Resize')
        assert (resize['scale'], resize['keep_ratio']) == ((side, side), False)
        assert resize['backend'] == 'pillow'
    assert only(train, 'mmext.GridMosaic')['short_side'] == side // 2
    assert only(train, 'mmext.PhotometricDistortion')['prob'] == 0.5
    gentle = only(train, 'mmext.UnlessMosaic')
    assert only(gentle, 'mmext.ZoomOut')['prob'] == 0.5
    assert only(gentle, 'mmext.IoUCrop')['prob'] == 0.8
    assert only(train, 'mmdet.RandomFlip')['prob'] == 0.5
    is_vit = VARIANTS[name].backbone == 'dinov3_sta'
    assert cfg.model.data_preprocessor.mean == ([123.675, 116.28, 103.53] if is_vit else [0.0] * 3)


@every_size
def test_coco__groups_are_the_default_ones(name: str) -> None:
    cfg = load(f'{name}_coco').optim_wrapper.paramwise_cfg
    assert cfg.to_dict() == dict(patterns=default_groups(name, PUBLISHED[name][2]))


def test_industrial__numbers_of_the_mission() -> None:
    cfg = load('m_industrial')
    assert cfg.model.decoder.num_classes == 6
    assert len(cfg.train_dataloader.dataset.metainfo.classes) == 6
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (100, 2)
    schedule = only(cfg.param_scheduler, 'mmext.FlatCosineLR')
    assert {key: schedule[key] for key in ('flat', 'no_aug', 'warmup', 'end')} == dict(
        flat=70, no_aug=10, warmup=2000, end=100
    )
    optim = cfg.optim_wrapper
    assert (optim.type, optim.clip_grad) == ('AmpOptimWrapper', dict(max_norm=0.1))
    assert (optim.optimizer.lr, optim.optimizer.weight_decay) == (4e-4, 1e-4)
    assert optim.paramwise_cfg.to_dict() == dict(patterns=default_groups('m', 4e-5))
    data = cfg.train_dataloader.dataset.pipeline
    assert only(data, 'mmext.PhotometricDistortion')['prob'] == 0.3
    assert only(data, 'mmext.IoUCrop')['prob'] == 0.5
    assert not found_in(data, 'mmext.GridMosaic') and not found_in(data, 'mmext.ZoomOut')
    # Nothing else is blended: no copy-blend.
    (mixup,) = cfg.model.data_preprocessor.batch_augments
    assert (mixup.type, mixup.prob) == ('mmext.BatchMixUp', 0.15)
    # The last ten epochs are without augmentation.
    assert mixup.epochs == only(data, 'mmext.InEpochs')['epochs'] == (0, 90)
    assert only(cfg.custom_hooks, 'mmext.StageTwoHook')['stop_epoch'] == 90


def with_length(path: Path, max_epochs: int, folder: Path) -> Config:
    """The config after an edit of `max_epochs` in its file."""
    text = path.read_text().replace("'../_base_", f"'{CONFIGS}/_base_")
    text, count = re.subn(r'^max_epochs = \d+$', f'max_epochs = {max_epochs}', text, flags=re.M)
    assert count == 1
    (folder / path.name).write_text(text)
    return Config.fromfile(folder / path.name)


@pytest.mark.parametrize(
    'share', [0.5, pytest.param(3, marks=pytest.mark.slow)], ids=['half', 'triple']
)
@pytest.mark.parametrize('path', DEIM, ids=[path.stem for path in DEIM])
def test_length__all_follows_one_line_of_the_file(path: Path, share: float, tmp_path: Path) -> None:
    before = load(path.stem.removeprefix('deimv2_'))
    epochs = int(before.train_cfg.max_epochs * share)
    cfg = with_length(path, epochs, tmp_path)
    assert cfg.train_cfg.max_epochs == epochs
    assert check_lengths(cfg, Length(epochs, epochs * 1000)) == []
    old, new = (only(config.param_scheduler, 'mmext.FlatCosineLR') for config in (before, cfg))
    assert new['no_aug'] == old['no_aug'] and new['flat'] + new['no_aug'] <= epochs
    stops, was_stops = (
        found_in(config.custom_hooks, 'mmext.StageTwoHook') for config in (cfg, before)
    )
    # The first epochs and the last ones keep their length; what lies between them, its share.
    stop = stops[0]['stop_epoch'] if stops else epochs
    was_stop = was_stops[0]['stop_epoch'] if stops else before.train_cfg.max_epochs
    assert stop == (epochs - new['no_aug'] if stops else epochs)
    windows = [value for path, value in walk_settings(cfg.to_dict()) if path.endswith('.epochs')]
    assert windows and all(begin < end <= stop for begin, end in windows)
    assert new['flat'] / stop == pytest.approx(old['flat'] / was_stop, abs=0.1)
    # Both are rounded down to whole epochs.
    rounding = 1 / stop + 1 / was_stop
    change, was = (config.model.criterion.matcher.change_epoch for config in (cfg, before))
    assert change < stop and change / stop == pytest.approx(was / was_stop, abs=rounding)


@every_size
def test_coco__says_what_to_change_on_one_gpu(name: str) -> None:
    text = (FOLDER / f'deimv2_{name}_coco.py').read_text()
    batch, total = (8, 32) if PUBLISHED[name][0] == 32 else (32, 128)
    assert f'On one GPU, with batches of {batch} instead of {total}' in text
    assert f'python tools/train.py configs/deim/deimv2_{name}_coco.py --amp --auto-scale-lr' in text


@pytest.mark.parametrize(
    'name', ['atto', 'hgx', *(pytest.param(n, marks=pytest.mark.slow) for n in 'ns')]
)
def test_coco__sync_bn_keeps_names_and_what_is_frozen(name: str) -> None:
    cfg = load(f'{name}_coco')
    assert cfg.sync_bn == 'torch'
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(cfg.model)
        names = list(model.state_dict())
        trained = {key for key, value in model.named_parameters() if value.requires_grad}
        norms = [key for key, part in model.train().named_modules() if isinstance(part, _BatchNorm)]
        frozen = [key for key in norms if not model.get_submodule(key).training]
        assert norms and bool(frozen) == (name == 'hgx')
        for convert, kind in (
            (convert_sync_batchnorm, nn.SyncBatchNorm),
            (revert_sync_batchnorm, _BatchNorm),
        ):
            # mmengine's: for several processes, and for one.
            model = convert(model)
            model.train()
            parts = {
                key: part for key, part in model.named_modules() if isinstance(part, _BatchNorm)
            }
            assert list(parts) == norms and all(isinstance(part, kind) for part in parts.values())
            assert [key for key in norms if not parts[key].training] == frozen
            assert list(model.state_dict()) == names
            assert {k for k, value in model.named_parameters() if value.requires_grad} == trained
        assert not any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())


def test_published_groups__in_a_config_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / 'mine.py'
    path.write_text(
        "_base_ = 'mmext::deim/deimv2_s_coco.py'\n\nfrom mmext.models.deim.groups import published_groups\n\n"
        "optim_wrapper = dict(paramwise_cfg=dict(patterns=published_groups('s', 2.5e-5)))\n"
    )
    cfg = Config.fromfile(path)
    assert cfg.optim_wrapper.paramwise_cfg.to_dict() == dict(patterns=published_groups('s', 2.5e-5))
    assert cfg.optim_wrapper.optimizer.lr == 5e-4
    assert 'published_groups' not in cfg


def test_groups__unknown_size_is_named() -> None:
    for groups in (default_groups, published_groups):
        with pytest.raises(
            ValueError, match="got the size 'xl' of DEIMv2; expected one of .*'atto'"
        ):
            groups('xl', 1e-4)
