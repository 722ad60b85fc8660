"""Schedules, windows and batches that do not fit the training: warned of, and nothing else is."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from mmext.engine.hooks.preflight import recipe_findings
from mmext.engine.preflight_recipe import Length, check_batch, check_lengths
from tests.test_configs import CONFIGS
from tests.tools.test_train import run_training, write_config

ITERATIONS = 40  # of an epoch
COSINE = dict(type='CosineAnnealingLR', end=20, T_max=20, convert_to_iter_based=True)
WARMUP = dict(type='LinearLR', start_factor=0.01, end=100, by_epoch=False)


def warned(max_epochs: int, **cfg: object) -> str:
    """The warning on a config whose training has so many epochs; empty without one."""
    findings = check_lengths(Config(cfg), Length(max_epochs, max_epochs * ITERATIONS))
    assert len(findings) < 2 and not any(finding.is_error for finding in findings)
    return findings[0].text if findings else ''


@pytest.mark.parametrize(
    'param_scheduler',
    [
        [WARMUP, COSINE],
        dict(COSINE),
        [dict(COSINE, end=15, T_max=15), dict(type='ConstantLR', factor=1.0, begin=15, end=20)],
        [WARMUP],
        [WARMUP, dict(type='MultiStepLR', milestones=[8, 11])],
        # Written for 790 images in batches of one, and there are 800.
        [dict(type='PolyLR', end=790, by_epoch=False)],
        dict(generator=[COSINE], critic=dict(COSINE)),
        [dict(type='CosineRestartLR', periods=[5, 15]), WARMUP],
        # The training ends with a period, not with the last.
        [dict(type='CosineRestartLR', periods=[8, 8], begin=4)],
        [dict(type='CosineRestartLR', periods=[20, 40])],
        None,
    ],
    ids=(
        'usual single tail warmup-only endless iterations two-optimizers restarts restarts-later first-restart none'
    ).split(),
)
def test_lengths__a_schedule_that_fits(param_scheduler: object) -> None:
    assert warned(20, param_scheduler=param_scheduler) == ''


@pytest.mark.parametrize(
    ('param_scheduler', 'message'),
    [
        ([WARMUP, dict(COSINE, end=12)], 'scheduler.1.end = 12: the schedule ends there, and'),
        ([dict(COSINE, end=21)], '0.end = 21: training ends at epoch 20, before the schedule'),
        (dict(COSINE, end=12), 'param_scheduler.end = 12: the schedule ends'),
        (dict(one=[COSINE], two=[dict(COSINE, end=30)]), 'scheduler.two.0.end = 30: training ends'),
        ([dict(type='PolyLR', end=400, by_epoch=False)], 'training goes on to iteration 800'),
        ([dict(WARMUP, end=800), COSINE], '0.end = 800: the warm-up lasts until iteration 800'),
        ([dict(type='mmext.FlatCosineLR', warmup=2000)], 'warmup = 2000: training has 800 iter'),
        (
            [dict(type='CosineRestartLR', periods=[4, 8]), WARMUP],
            '0.periods = [4, 8]: they end at epoch 12: the schedule ends there, and training goes on to epoch 20',
        ),
        (
            [dict(type='CosineRestartLR', periods=[10, 20])],
            'they end at epoch 30: training ends at epoch 20, before the schedule',
        ),
    ],
    ids=(
        'short long single two-optimizers iterations warmup warmup-of-flat-cosine restarts-short restarts-cut'
    ).split(),
)
def test_lengths__a_schedule_that_does_not_fit(param_scheduler: object, message: str) -> None:
    assert message in warned(20, param_scheduler=param_scheduler)


@pytest.mark.parametrize(
    ('epochs', 'message'),
    [
        ((0, 20), ''),
        ((3, None), ''),
        ((19, 20), ''),
        ((0, 21), 'batch_augments.0.augments.0.epochs = (0, 21): closes after the end'),
        ((20, 30), '= (20, 30): opens after the end'),
        ((20, None), '= (20, None): opens after the end'),
        # Something else of that name.
        (20, ''),
        ('20', ''),
        ((1, 2, 30), ''),
    ],
    ids=str,
)
def test_lengths__windows(epochs: object, message: str) -> None:
    augments = [dict(type='mmext.BatchFirstOf', augments=[dict(type='A', epochs=epochs)])]
    text = warned(20, model=dict(data_preprocessor=dict(batch_augments=augments)))
    assert message in text and bool(text) == bool(message)
    # A variable of the file holds a copy, which nobody uses.
    assert warned(20, train_pipeline=[dict(type='mmext.InEpochs', epochs=epochs)]) == ''


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(custom_hooks=[dict(type='mmext.StageTwoHook', stop_epoch=20)]), 'stop_epoch = 20'),
        (dict(custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=25)]), 'switch_epoch = 2'),
        (dict(custom_hooks=[dict(type='A', num_last_epochs=20)]), 'leaves no epoch before them'),
        (dict(model=dict(criterion=dict(matcher=dict(change_epoch=20)))), 'matcher.change_epoch'),
        (dict(custom_hooks=[dict(type='A', warmup_epochs=20)]), 'the warm-up lasts until the end'),
        (dict(custom_hooks=[dict(type='mmext.StageTwoHook', stop_epoch=19)]), ''),
        (dict(custom_hooks=[dict(type='A', num_last_epochs=19)]), ''),
        (dict(custom_hooks=None, model=dict(matcher=dict(change_epoch=None))), ''),
    ],
    ids='stage-two switch close-mosaic matcher warmup stage-two-fits mosaic-fits none'.split(),
)
def test_lengths__switches(cfg: dict, message: str) -> None:
    assert message in warned(20, **cfg) and bool(warned(20, **cfg)) == bool(message)


def test_lengths__training_that_counts_iterations_has_no_epochs() -> None:
    cfg = dict(param_scheduler=[dict(type='PolyLR', end=90, by_epoch=False)], max_iters=90)
    cfg |= dict(custom_hooks=[dict(type='A', num_last_epochs=1)])
    assert check_lengths(Config(cfg), Length(None, 90)) == []
    (finding,) = check_lengths(Config(cfg), Length(None, 180))
    assert 'a training of 180 iterations (train_cfg.max_iters)' in finding.text
    # Nothing is computed from a variable of a dict, or of a config that was dumped.
    assert finding.text.endswith('\n  Set them, or the length of training.')


def test_lengths__option_says_what_was_left_behind_and_what_to_change() -> None:
    path = CONFIGS / 'deim' / 'deimv2_m_industrial.py'
    cfg = Config.fromfile(path)
    (finding,) = check_lengths(cfg, Length(300, 300 * 350))
    wrong, _, rest = finding.text.partition('and so, probably')
    assert 'a training of 300 epochs' in wrong and 'param_scheduler.0.end = 100' in wrong
    for setting in (
        'train_dataloader.dataset.pipeline.2.epochs = (0, 90)',
        'batch_augments.0.epochs = (0, 90)',
        'model.criterion.matcher.change_epoch = 80',
        'custom_hooks.5.stop_epoch = 90',
    ):
        assert setting in rest
    assert f'Set max_epochs = 300 in {path}' in rest


def preprocessor(*augments: dict) -> nn.Module:
    return nn.ModuleDict(
        dict(data_preprocessor=DetDataPreprocessor(mean=[0], std=[1], batch_augments=augments))
    )


def test_batch__mixup_needs_two_images() -> None:
    mixup, blend = dict(type='mmext.BatchMixUp'), dict(type='mmext.BatchCopyBlend')
    nested = dict(type='mmext.BatchFirstOf', augments=[mixup, blend])
    (finding,) = check_batch(preprocessor(nested), 1)
    assert finding.text.startswith('BatchMixUp has no effect: it needs batches of 2 images')
    assert not finding.is_error
    # An object of the only image is blended into another place of it.
    assert check_batch(preprocessor(blend), 1) == []
    assert check_batch(preprocessor(mixup), 2) == check_batch(preprocessor(mixup), None) == []
    assert check_batch(nn.Identity(), 1) == []


@pytest.mark.parametrize(
    ('kind', 'lengths'),
    [(EpochBasedTrainLoop, ['5 epochs']), (IterBasedTrainLoop, [])],
    ids=['epochs', 'iterations'],
)
def test_hook__reads_length_and_batch_from_the_runner(kind: type, lengths: list[str]) -> None:
    loop = kind.__new__(kind)
    # What mmengine's loop by iterations says of its epochs, "for compatibility".
    loop._max_epochs, loop._max_iters = (5 if lengths else 1), 10
    runner = SimpleNamespace(
        model=preprocessor(dict(type='mmext.BatchMixUp')),
        train_dataloader=SimpleNamespace(batch_size=1),
        train_loop=loop,
        cfg=Config(dict(param_scheduler=[COSINE])),
    )
    *of_lengths, of_batch = (finding.text for finding in recipe_findings(runner))
    assert 'BatchMixUp has no effect' in of_batch
    assert [re.findall(r'training of (.*) \(', text)[0] for text in of_lengths] == lengths


@pytest.mark.slow
def test_train__with_another_length_by_option_is_warned(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    run_training(config, '--cfg-options', 'train_cfg.max_epochs=1')
    (log,) = (tmp_path / 'work').glob('*/*.log')
    text = log.read_text()
    assert text.count('not made for a training of 1 epochs (train_cfg.max_epochs)') == 1
    assert 'param_scheduler.0.end = 2: training ends at epoch 1, before the schedule' in text
