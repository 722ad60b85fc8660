"""StageTwoHook in small runs whose scores are scripted: where each epoch starts from, and what a resumed run does."""

import copy
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmext.engine.checkpoint import read_checkpoint
from mmext.engine.hooks import StageTwoHook
from mmext.engine.hooks.stage_two import restore_optimizer

STOP, NUM_EPOCHS = 3, 9
# The first stage is best in epoch 1. Then: worse, worse than all but the running best is forgotten, better than that,
# the best of all, a tie, anything, the end.
SCORES = [0.1, 0.5, 0.3, 0.4, 0.2, 0.3, 0.6, 0.6, 0.1]
RUN_NUMBERS = itertools.count()


class Line(BaseModel):
    """y = w x, which learns y = 0; the weight is different after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, value: float, mode: str = 'tensor') -> Any:
        if mode == 'loss':
            return dict(loss=(self.weight * value).square())
        return [value]


class ScriptedMetric(BaseMetric):
    """The score that is scripted for the epoch, or an interruption where it is None."""

    def __init__(self, scores: list[float | None]) -> None:
        super().__init__()
        self.scores = scores

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        score = self.scores[MessageHub.get_current_instance().get_info('epoch')]
        if score is None:
            raise KeyboardInterrupt
        return dict(score=score)


class Diary(Hook):
    """What the run consists of at the start of each epoch and after its training."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.starts: dict[int, tuple] = {}
        self.ends: dict[int, tuple] = {}
        self.rates: dict[int, float] = {}

    def before_train_epoch(self, runner: Runner) -> None:
        self.starts[runner.epoch] = contents(runner)
        self.rates[runner.epoch] = runner.optim_wrapper.optimizer.param_groups[0]['lr']

    def after_train_epoch(self, runner: Runner) -> None:
        self.ends[runner.epoch] = contents(runner)


def contents(runner: Runner) -> tuple[float, ...]:
    """Weight, averaged weight, number of averages, momentum of SGD."""
    (average,) = (hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
    (state,) = runner.optim_wrapper.optimizer.state.values() or ({},)
    momentum = state.get('momentum_buffer', torch.zeros(()))
    values = (runner.model.weight, average.module.weight, average.steps, momentum)
    return tuple(value.item() for value in values)


def make_runner(work_dir: Path, **changes: Any) -> Runner:
    """A run of epochs of two steps; `scores`, `hook` are arguments of the metric and of the hook, others of Runner."""
    loader = dict(
        dataset=[1.0, 2.0], batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
    )
    hook = StageTwoHook(STOP, **changes.pop('hook', {}))
    metric = ScriptedMetric(changes.pop('scores', SCORES))
    interval = changes.pop('val_interval', 1)
    settings: dict[str, Any] = dict(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[metric],
        train_cfg=dict(by_epoch=True, max_epochs=NUM_EPOCHS, val_interval=interval),
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        param_scheduler=dict(type='ExponentialLR', gamma=0.9, by_epoch=True),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, save_best='score', rule='greater')
        ),
        custom_hooks=[
            dict(type='mmext.StepEMAHook', ema_type='ExponentialMovingAverage', momentum=0.25),
            hook,
            Diary(),
        ],
        experiment_name=f'stage_two_{next(RUN_NUMBERS)}',
        log_level='ERROR',
    )
    return Runner(**{**settings, **changes})


def train(runner: Runner) -> Diary:
    runner.train()
    (diary,) = (hook for hook in runner.hooks if isinstance(hook, Diary))
    return diary


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Diary]:
    """Folder and diary of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp('whole')
    return folder, train(make_runner(folder))


def test_stage_two__where_each_epoch_starts_from(whole: tuple[Path, Diary]) -> None:
    _, diary = whole
    starts = {
        epoch: next(before for before in range(epoch) if diary.ends[before] == diary.starts[epoch])
        for epoch in range(1, NUM_EPOCHS)
    }
    # Epoch 3 and those after 3 (0.4 < 0.5) and 7 (0.6, a tie) start from epoch 1; after a failure any score is good.
    assert starts == {1: 0, 2: 1, 3: 1, 4: 1, 5: 4, 6: 5, 7: 6, 8: 1}


def test_stage_two__rates_follow_the_schedule(whole: tuple[Path, Diary]) -> None:
    _, diary = whole
    expected = {epoch: 0.01 * 0.9**epoch for epoch in range(NUM_EPOCHS)}
    assert diary.rates == pytest.approx(expected)


def test_stage_two__best_checkpoints_of_the_stages(whole: tuple[Path, Diary]) -> None:
    folder, _ = whole
    assert [path.name for path in folder.glob('best_score*')] == ['best_score_epoch_7.pth']
    checkpoint = read_checkpoint(folder / 'best_stg1.pth')
    assert checkpoint['meta']['epoch'] == 2
    assert 'optimizer' in checkpoint and 'ema_state_dict' in checkpoint


@pytest.mark.parametrize(
    'epoch', [3, 4, 5, *(pytest.param(epoch, marks=pytest.mark.slow) for epoch in (2, 7, 8))]
)
def test_stage_two__a_resumed_run_continues_the_same(
    whole: tuple[Path, Diary], tmp_path: Path, epoch: int
) -> None:
    folder, expected = whole
    for name in ('best_stg1.pth', f'epoch_{epoch}.pth'):
        shutil.copy(folder / name, tmp_path)
    runner = make_runner(tmp_path, resume=True, load_from=str(tmp_path / f'epoch_{epoch}.pth'))
    diary = train(runner)
    epochs = range(epoch, NUM_EPOCHS)
    assert diary.starts == {number: expected.starts[number] for number in epochs}
    assert diary.ends == {number: expected.ends[number] for number in epochs}
    assert diary.rates == {number: expected.rates[number] for number in epochs}


def test_stage_two__an_interrupted_validation_is_made_up_for(
    whole: tuple[Path, Diary], tmp_path: Path
) -> None:
    _, expected = whole
    with pytest.raises(KeyboardInterrupt):
        # After epoch 3 comes a failure, on which the start of epoch 4 depends.
        train(make_runner(tmp_path, scores=[*SCORES[:3], None]))
    diary = train(make_runner(tmp_path, resume=True))
    assert diary.starts == {number: expected.starts[number] for number in range(4, NUM_EPOCHS)}


def test_stage_two__epochs_without_validation_just_go_on(tmp_path: Path) -> None:
    # Validated are epochs 1, 3, 5, 7 and the last.
    scores = [9.0, 0.5, 9.0, 0.4, 9.0, 0.3, 9.0, 0.2, 0.1]
    diary = train(make_runner(tmp_path, val_interval=2, scores=scores))
    starts = {
        epoch: next(before for before in range(epoch) if diary.ends[before] == diary.starts[epoch])
        for epoch in range(STOP, NUM_EPOCHS)
    }
    assert starts == {3: 1, 4: 1, 5: 4, 6: 5, 7: 6, 8: 1}


def test_stage_two__less_is_better_where_the_rule_says_so(tmp_path: Path) -> None:
    scores = [-score for score in SCORES]
    checkpoint = dict(type='CheckpointHook', interval=1, save_best='score', rule='less')
    diary = train(make_runner(tmp_path, scores=scores, default_hooks=dict(checkpoint=checkpoint)))
    assert diary.starts[4] == diary.ends[1] and diary.starts[7] == diary.ends[6]
    assert (tmp_path / 'best_score_epoch_7.pth').exists()


def test_stage_two__average_with_a_decay_of_its_own(tmp_path: Path) -> None:
    hook = dict(ema_decay=0.5, ema_decay_step=0.1)
    diary = train(
        make_runner(tmp_path, hook=hook, scores=[*SCORES[:3], 0.4, 0.1, 0.2, 0.3, 0.4, 0.5])
    )
    # The decay is 0.75 in the first stage, 0.5 in epoch 3, and, as epoch 3 was no better, 0.4 from then on.
    for epoch, decay in ((2, 0.75), (3, 0.5), (4, 0.4), (5, 0.4)):
        average = average_by_hand(diary.starts[epoch], diary.rates[epoch], decay)
        assert average == pytest.approx(diary.ends[epoch][1], rel=1e-5)


def average_by_hand(start: tuple[float, ...], rate: float, decay: float) -> float:
    """Average after an epoch from `start`: two steps down (w x)^2 with x = 1 and 2, by SGD with a momentum of 0.9."""
    weight, average, _, momentum = start
    for value in (1.0, 2.0):
        momentum = 0.9 * momentum + 2 * weight * value**2
        weight -= rate * momentum
        average = decay * average + (1 - decay) * weight
    return average


class ScaledOptimWrapper(OptimWrapper):
    """Has a loss scale in its state, as the wrapper for half precision."""

    scale = 1.0

    def state_dict(self) -> dict:
        return {**super().state_dict(), 'loss_scaler': self.scale}

    def load_state_dict(self, state_dict: dict) -> None:
        self.scale = state_dict.pop('loss_scaler')
        super().load_state_dict(state_dict)


def test_restore_optimizer__moments_and_scale_but_not_the_rates() -> None:
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [dict(params=[own], lr=rate) for own, rate in zip(parameters, (0.1, 0.2), strict=True)]
    wrapper = ScaledOptimWrapper(torch.optim.SGD(groups, momentum=0.9))
    wrapper.scale = 8.0
    wrapper.update_params(sum(own.sum() for own in parameters))
    state = copy.deepcopy(wrapper.state_dict())
    wrapper.update_params(sum(own.square().sum() for own in parameters))
    wrapper.scale = 2.0
    for group in wrapper.param_groups:
        group['lr'] = 0.01

    restore_optimizer(wrapper, state)
    assert wrapper.scale == 8.0
    assert [group['lr'] for group in wrapper.param_groups] == [0.01] * 3
    for parameter in parameters:
        buffer = wrapper.optimizer.state[parameter]['momentum_buffer']
        torch.testing.assert_close(buffer, torch.ones(2))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(val_dataloader=None, val_cfg=None, val_evaluator=None), 'no validation'),
        (dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook'))), 'save_best'),
        (dict(val_interval=4), 'no validation comes before epoch stop_epoch=3'),
        (dict(custom_hooks=[StageTwoHook(3, ema_decay=0.5)]), 'no averaged model'),
        (
            dict(train_cfg=dict(by_epoch=False, max_iters=4)),
            'IterBasedTrainLoop, which has no epochs',
        ),
    ],
    ids=['no-validation', 'no-metric', 'too-late', 'no-average', 'iterations'],
)
def test_stage_two__what_is_missing_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_runner(tmp_path, **changes).train()


def test_stage_two__a_first_stage_without_scores_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='no validation of the first stage had a score'):
        train(make_runner(tmp_path, scores=[float('nan')] * NUM_EPOCHS))


def test_stage_two__a_lost_checkpoint_is_named(whole: tuple[Path, Diary], tmp_path: Path) -> None:
    shutil.copy(whole[0] / 'epoch_3.pth', tmp_path)
    with pytest.raises(ValueError, match=r'best_stg1\.pth does not exist; copy'):
        train(make_runner(tmp_path, resume=True, load_from=str(tmp_path / 'epoch_3.pth')))


@pytest.mark.parametrize(
    'arguments', [dict(stop_epoch=0), dict(stop_epoch=1, ema_decay=1.0)], ids=['epoch', 'decay']
)
def test_stage_two__arguments_out_of_range(arguments: dict) -> None:
    with pytest.raises(ValueError, match='StageTwoHook: got'):
        StageTwoHook(**arguments)
