"""The mission's recipe as the plain config ships it: rates of the parts, batch, patience, transforms."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmext.tools.augment_dataset import DEFAULT_PIPELINE

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'localizer'


@pytest.fixture(scope='module')
def cfg() -> Config:
    return Config.fromfile(CONFIGS / 'localizer-plain_cnn_1xb32-37e_face-mask.py')


def test_rates__ten_times_higher_for_the_box_head(cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group['lr'] for group in optimizer.param_groups for p in group['params']}
    assert set(rates) == set(names.values())
    for name, rate in rates.items():
        assert rate == (1e-3 if name.startswith('head.box_branch.') else 1e-4), name
    assert type(optimizer).__name__ == 'AdamW'
    assert {group['weight_decay'] for group in optimizer.param_groups} == {1e-4}


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_stop__after_ten_epochs_without_a_better_iou_and_back_to_the_best(path):
    cfg = Config.fromfile(path)
    hooks = {hook.type: hook for hook in cfg.custom_hooks}
    stop = hooks['EarlyStoppingHook']
    assert (stop.monitor, stop.rule, stop.patience) == ('localizer/IoU', 'greater', 10)
    assert 'mmext.RestoreBestHook' in hooks
    assert cfg.default_hooks.checkpoint.save_best == stop.monitor
    assert cfg.train_dataloader.batch_size == 32


def test_loss__share_of_the_box_and_computed_weights(cfg):
    loss = cfg.model.head.loss
    assert (loss.alpha, loss.class_weight, loss.loss_box.type) == (0.7, 'balanced', 'MSELoss')
    assert 'mmext.ClassWeightHook' in [hook.type for hook in cfg.custom_hooks]


def test_transforms__those_of_the_mission_in_training_and_on_disk(cfg):
    (step,) = [s for s in cfg.train_dataloader.dataset.pipeline if s.type == 'mmext.Albumentations']
    assert [step.to_dict()] == DEFAULT_PIPELINE
    assert {transform.type: transform.p for transform in step.transforms} == dict(
        HorizontalFlip=0.5,
        RandomBrightnessContrast=0.3,
        MotionBlur=0.4,
        HueSaturationValue=0.3,
        Affine=0.2,
    )
