"""EpochWindowsHook in a real runner: every kind of data set, and a resumed run."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmcv.transforms import BaseTransform, RandomApply, RandomChoice
from mmdet.datasets import MultiImageMixDataset
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import Subset

from mmext.datasets.transforms import InEpochs, UnlessMosaic
from mmext.engine import EpochWindowsHook
from mmext.engine.hooks.epoch_windows import pipeline_steps


class Add(BaseTransform):
    """Adds 1 to the number of a sample."""

    def transform(self, results: dict) -> dict:
        return {**results, 'number': results['number'] + 1}


class Zeros(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [{'number': 0.0} for _ in range(4)]


class Augment(nn.Module):
    epoch = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Preprocessor(BaseDataPreprocessor):
    def __init__(self) -> None:
        super().__init__()
        self.batch_augments = nn.ModuleList([Augment()])


class Recorder(BaseModel):
    """Writes down the numbers of every batch, and the epoch that its batch augmentation knows."""

    def __init__(self) -> None:
        super().__init__(Preprocessor())
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[float]]] = []

    def forward(self, number: list[float], sample_idx: list[int], mode: str) -> dict:
        epoch = self.data_preprocessor.batch_augments[0].epoch
        self.seen.append((epoch, number))
        return {'loss': self.weight * 0}


class LookAtSample(Hook):
    """As the preflight does."""

    priority = 'HIGHEST'

    def before_train(self, runner: Runner) -> None:
        assert runner.train_dataloader.dataset[0]['number'] == 0


def _windowed(*epochs: int | None) -> BaseDataset:
    return Zeros(pipeline=[InEpochs([Add()], epochs=epochs)])


def _train(folder: Path, max_epochs: int, resume: bool) -> list:
    model = Recorder()
    runner = Runner(
        model,
        str(folder),
        train_dataloader=dict(
            dataset=ConcatDataset([_windowed(1, 3), _windowed(2, None)]),
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=8,
            num_workers=1,
            persistent_workers=True,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[LookAtSample(), EpochWindowsHook()],
        resume=resume,
        experiment_name=f'windows-{max_epochs}',
    )
    runner.train()
    return model.seen


@pytest.mark.slow
def test_epoch_windows__a_resumed_run_starts_with_its_epoch(tmp_path: Path) -> None:
    expected = [
        (0, [0] * 8),
        (1, [1] * 4 + [0] * 4),
        (2, [1] * 8),
        (3, [0] * 4 + [1] * 4),
    ]
    assert _train(tmp_path, 2, resume=False) == expected[:2]
    assert _train(tmp_path, 4, resume=True) == expected[2:]


@pytest.mark.parametrize(
    'nest',
    [
        lambda step: Zeros(pipeline=[RandomApply([step], prob=0.5)]),
        lambda step: Zeros(pipeline=[RandomChoice([[Add()], [UnlessMosaic([step])]])]),
        lambda step: Subset(ConcatDataset([Zeros(), Zeros(pipeline=[step])]), [0, 1]),
        lambda step: MultiImageMixDataset(Zeros(pipeline=[step]), pipeline=[]),
    ],
    ids=['RandomApply', 'RandomChoice', 'Subset of Concat', 'MultiImageMix'],
)
def test_pipeline_steps__finds_nested_windows(nest) -> None:
    window = InEpochs([Add()], epochs=(0, 1))
    assert any(step is window for step in pipeline_steps(nest(window)))


def _runner(dataset: BaseDataset, **changes) -> SimpleNamespace:
    settings = dict(
        train_dataloader=SimpleNamespace(dataset=dataset),
        model=nn.Identity(),
        epoch=0,
        logger=MMLogger.get_instance('epoch-windows'),
    )
    return SimpleNamespace(**settings | changes)


def test_epoch_windows__transforms_and_batch_augments_follow_the_runner() -> None:
    dataset, model = ConcatDataset([_windowed(1, 3), _windowed(2, None)]), Recorder()
    runner = _runner(
        dataset, model=model, train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    )
    hook = EpochWindowsHook()
    seen = []
    # Resumed at 2: before_train comes after loading.
    for step, runner.epoch in ((hook.before_train, 2), (hook.before_train_epoch, 3)):
        step(runner)
        augment = model.data_preprocessor.batch_augments[0]
        seen.append((augment.epoch, [sample['number'] for sample in dataset]))
    assert seen == [(2, [1] * 8), (3, [0] * 4 + [1] * 4)]


def test_epoch_windows__says_that_it_has_no_effect(caplog) -> None:
    runner = _runner(Zeros(), train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop))
    runner.logger = logging.getLogger('epoch-windows-no-effect')
    EpochWindowsHook().before_train(runner)
    assert ['no effect' in record.getMessage() for record in caplog.records] == [True]


def test_epoch_windows__iteration_based_training() -> None:
    loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    with pytest.raises(ValueError, match='IterBasedTrainLoop'):
        EpochWindowsHook().before_train(_runner(_windowed(0, 1), train_loop=loop))


def test_epoch_windows__a_test_run_builds_no_training_data() -> None:
    # A runner that tests has the config of its train loop, and builds it when asked.
    EpochWindowsHook().before_run(SimpleNamespace(_train_loop=dict(by_epoch=True)))
