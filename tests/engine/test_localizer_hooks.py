"""Class counts told before training, best weights loaded after it."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EarlyStoppingHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmext.engine.hooks import ClassWeightHook, RestoreBestHook


class Counted(nn.Module):
    def set_class_counts(self, counts: list[int]) -> None:
        self.counts = counts


def fake_runner(model: nn.Module, labels: list[list[int]], classes: tuple[str, ...]) -> object:
    class Data(BaseDataset):
        METAINFO = dict(classes=classes) if classes else dict()

        def load_data_list(self) -> list[dict]:
            return [dict(instances=[dict(bbox_label=label) for label in own]) for own in labels]

    return SimpleNamespace(model=model, train_dataloader=SimpleNamespace(dataset=Data()))


def test_class_weights__counts_of_the_training_data():
    model = Counted()
    ClassWeightHook().before_train(fake_runner(model, [[1], [0], [], [1, 1]], ('a', 'b', 'c')))
    assert model.counts == [1, 3, 0]


@pytest.mark.parametrize(
    ('model', 'classes'), [(nn.Identity(), ('a',)), (Counted(), ())], ids=['model', 'classes']
)
def test_class_weights__nobody_to_tell_or_nothing_to_count(model, classes):
    with pytest.raises(ValueError, match='ClassWeightHook: got'):
        ClassWeightHook().before_train(fake_runner(model, [[0]], classes))


class Climber(BaseModel):
    """Its one weight grows by 1 an iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, mode: str, **_: object) -> object:
        return dict(loss=-self.weight.sum()) if mode == 'loss' else [dict(value=self.weight.item())]


class Peak(BaseMetric):
    """Highest at a weight of 2."""

    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        self.results += [-abs(sample['value'] - 2) for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(height=results[0])


def train(tmp_path: object, *hooks: object, **checkpoint: object) -> Runner:
    data = [dict()]
    loader = dict(
        batch_size=1,
        num_workers=0,
        dataset=data,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=lambda batch: {},
    )
    runner = Runner(
        Climber(),
        str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=9, val_interval=1),
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=Evaluator(Peak()),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, **checkpoint)),
        custom_hooks=[*hooks, RestoreBestHook()],
        experiment_name=f'restore_{id(data)}',
        default_scope='mmengine',
        log_level='WARNING',
        cfg=Config(),
    )
    runner.train()
    return runner


def test_restore_best__the_model_ends_with_the_best_weights(tmp_path):
    assert train(tmp_path, save_best='height', rule='greater').model.weight.item() == 2


def test_restore_best__after_an_early_stop(tmp_path):
    # The best is epoch 2; three epochs without a better one end the training at epoch 5.
    stop = EarlyStoppingHook('height', rule='greater', patience=3, min_delta=0.0)
    runner = train(tmp_path, stop, save_best='height', rule='greater')
    assert runner.epoch == 5 and runner.model.weight.item() == 2


def test_restore_best__nothing_was_the_best(tmp_path):
    with pytest.raises(ValueError, match='save_best'):
        train(tmp_path)
