"""`--cfg-options` that would change nothing: told, with what to set instead."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmext.engine.config_file import load_config_file, merge_options
from mmext.engine.config_options import describe_argument, nearest_settings, used_variables
from tests.test_configs import CONFIGS

BASE = """
data_root = 'data/'
side = 64
view = dict(type='Resize', scale=(side, side))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=[view]))
test_dataloader = val_dataloader
"""
LEAF = """
_base_ = 'base.py'
epochs = 20
note = 'read by nobody'
model = dict(type='A', test_cfg=dict(score_thr=0.1), image_size={{_base_.side}})
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_begin=epochs // 2)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
env_cfg = dict(cudnn_benchmark=False)
"""


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'leaf.py').write_text(LEAF)
    return load_config_file(tmp_path / 'leaf.py')


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The messages logged in a test."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ('option', 'messages'),
    [
        ('epochs', ['epochs is a variable', 'what has its value: train_cfg.max_epochs']),
        ('data_root', ['is a variable', 'value: val_dataloader.dataset.data_root, test_dat']),
        (
            'side',
            ['is a variable', ': model.image_size, ', 'dataloader.dataset.pipeline.0.scale.0'],
        ),
        ('view.scale', ['view is a variable', ': val_dataloader.dataset.pipeline.0.scale, test']),
    ],
)
def test_merge_options__variable_of_the_file(cfg: Config, option: str, messages: list[str]) -> None:
    before = cfg.to_dict()
    with pytest.raises(ValueError) as caught:
        merge_options(cfg, {option: 5})
    text = str(caught.value)
    assert text.startswith(f'--cfg-options {option}=5: ')
    assert [message for message in messages if message not in text] == []
    assert cfg.to_dict() == before


@pytest.mark.parametrize(
    ('option', 'suggestion'),
    [
        ('modle.test_cfg', 'did you mean model.test_cfg?'),
        ('max_epochs', 'did you mean train_cfg.max_epochs?'),
        ('lr', 'did you mean optim_wrapper.optimizer.lr?'),
        ('randomnes.seed', 'did you mean randomness.seed?'),
        ('zebra', 'nothing reads it; where code of your own reads it'),
    ],
)
def test_merge_options__unknown_root(cfg: Config, option: str, suggestion: str) -> None:
    root = option.partition('.')[0]
    with pytest.raises(ValueError, match=f'={3}: {root} is not in the config') as caught:
        merge_options(cfg, {option: 3})
    assert suggestion in str(caught.value)


@pytest.mark.parametrize('option', ['env_cfg.cudn_benchmark', 'randomness.sed', 'auto_scale_lr.on'])
def test_merge_options__unknown_setting_of_a_plain_dict(cfg: Config, option: str) -> None:
    with pytest.raises(ValueError, match=f'{option}: .* has no setting .* expected one of'):
        merge_options(cfg, {option: 3})


def test_merge_options__what_is_read_may_be_new(cfg: Config, logged: list[str]) -> None:
    options = {
        'randomness.seed': 1,
        'find_unused_parameters': True,
        'sync_bn': 'torch',
        'load_from': 'a.pth',
        'model.neck.type': 'B',
        # A variable too, and read by the Runner.
        'val_dataloader.batch_size': 2,
        'default_hooks.logger.interval': 5,
        'model.test_cfg.max_per_img': 7,
    }
    merge_options(cfg, options)
    assert (cfg.randomness.seed, cfg.model.neck.type, cfg.sync_bn) == (1, 'B', 'torch')
    assert cfg.val_dataloader.batch_size == 2 and 'batch_size' not in cfg.test_dataloader
    assert logged == []


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.test_cfg.score_th', 'model.test_cfg.score_th is new beside score_thr'),
        ('train_cfg.max_epoch', 'train_cfg.max_epoch is new beside max_epochs'),
        ('note', 'nothing in mmengine reads note'),
    ],
)
def test_merge_options__suspicion_is_logged(
    cfg: Config, logged: list[str], option: str, message: str
) -> None:
    merge_options(cfg, {option: 3})
    assert [message in text for text in logged] == [True]


def test_merge_options__a_class_refuses_its_own_unknown_settings(
    cfg: Config, logged: list[str]
) -> None:
    merge_options(cfg, {'optim_wrapper.optimizer.lrs': 3})
    assert logged == []


def test_merge_options__variables_of_a_shipped_config() -> None:
    cfg = load_config_file(CONFIGS / 'deim' / 'deimv2_m_industrial.py')
    with pytest.raises(ValueError, match=r'value: train_cfg\.max_epochs, param_scheduler\.0\.end$'):
        merge_options(cfg, {'max_epochs': 50})
    with pytest.raises(ValueError, match=r': train_dataloader\.dataset\.pipeline\.0\.type$'):
        merge_options(cfg, {'train_pipeline.0.type': 'LoadImageFromFile'})


def test_merge_options__variable_of_a_dumped_config(tmp_path: Path) -> None:
    path = tmp_path / 'dumped.py'
    path.write_text('max_epochs = 20\nside = 64\ntrain_cfg = dict(max_epochs=20)\n')
    cfg = load_config_file(path)
    with pytest.raises(ValueError, match=r'value: train_cfg\.max_epochs$'):
        merge_options(cfg, {'max_epochs': 50})
    merge_options(cfg, {'side': 32})


def test_merge_options__configs_without_variables(tmp_path: Path) -> None:
    (tmp_path / 'a.json').write_text('{"note": 1, "model": {"depth": 1}}')
    for cfg in (Config.fromfile(tmp_path / 'a.json'), Config(dict(note=1, model=dict(depth=1)))):
        merge_options(cfg, {'model.depth': 2, 'note': 2})
        assert (cfg.model.depth, cfg.note) == (2, 2)


def test_used_variables__in_every_way_mmengine_knows(tmp_path: Path) -> None:
    path = tmp_path / 'a.py'
    path.write_text(
        "_base_ = 'base.py'\na = 1\nb = [a]\nc = _base_.d\ne = '{{_base_.f}}'\ng = {{ _base_.h }}\nb = 2\n"
    )
    assert used_variables(str(path)) == {'a', '_base_', 'd', 'f', 'h'}
    assert used_variables('a.json') == set()


def test_nearest_settings__shortest_paths_first() -> None:
    cfg = dict(model=dict(a=dict(depth=1), depth=2), train_cfg=[dict(depth=3)], depth=4)
    assert nearest_settings(cfg, 'depht') == ['model.depth', 'model.a.depth', 'train_cfg.0.depth']
    assert nearest_settings(cfg, 'zebra') == []


def unknown_argument() -> TypeError:
    try:
        describe_argument(depht=1)  # type: ignore[call-arg]
    except TypeError as error:
        return error
    raise AssertionError


def test_describe_argument__names_a_setting_like_it() -> None:
    cfg = dict(model=dict(depth=1, depht=2))
    text = describe_argument(cfg, unknown_argument())
    assert text is not None
    assert text.endswith("unexpected keyword argument 'depht'; did you mean model.depth?")
    assert describe_argument(cfg, TypeError('unsupported operand')) is None
