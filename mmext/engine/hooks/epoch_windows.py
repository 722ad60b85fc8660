"""Tells transforms and batch augmentations which epoch it is."""

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn

from mmext.engine.checkpoint import bare_model
from mmext.registry import HOOKS


def inner_steps(step: Any) -> Iterator[Any]:
    """A transform and all transforms inside it (`mmext.InEpochs`, mmcv's Compose, RandomApply, RandomChoice)."""
    if isinstance(step, list | tuple):
        for child in step:
            yield from inner_steps(child)
    else:
        yield step
        yield from inner_steps(getattr(step, 'transforms', ()))


def pipeline_steps(dataset: Any) -> Iterator[Any]:
    """All transforms of a data set and of those inside it (Concat, Repeat, MultiImageMix, Subset, sliced)."""
    yield from inner_steps(getattr(dataset, 'pipeline', ()))
    inside = [getattr(dataset, name, None) for name in ('dataset', '_dataset')]
    for child in [*inside, *getattr(dataset, 'datasets', ())]:
        if child is not None:
            yield from pipeline_steps(child)


@HOOKS.register_module()
class EpochWindowsHook(Hook):
    """Sets the epoch of everything in the training data that has a window of epochs, and of batch augmentations.

    That is: every transform with `set_epoch` in the pipelines of `train_dataloader`, at any depth, and every module
    with `set_epoch` in the model's data preprocessor. A resumed run starts with the epoch that it resumes.

    Raises:
        ValueError: if training is not epoch-based: the windows would never open or close.
    """

    def before_run(self, runner: Runner) -> None:
        """Set epoch 0, so that hooks can look at samples before training (the preflight does)."""
        # The property would build the training data of a run that only tests.
        if isinstance(runner._train_loop, BaseLoop):
            self._set_epoch(runner, 0)

    def before_train(self, runner: Runner) -> None:
        """Check the kind of training, and that there is a window at all."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                f'EpochWindowsHook: got a {type(runner.train_loop).__name__}, which counts no epochs; '
                "expected train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=...)"
            )
        if not self._set_epoch(runner, runner.epoch):
            runner.logger.warning(
                'EpochWindowsHook has no effect: no transform and no batch augmentation has a window of epochs'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the epoch that begins; no worker loads ahead of it."""
        self._set_epoch(runner, runner.epoch)

    @staticmethod
    def _set_epoch(runner: Runner, epoch: int) -> int:
        """Set it everywhere; returns the number of parts that wanted it."""
        preprocessor = getattr(bare_model(runner.model), 'data_preprocessor', None)
        modules = preprocessor.modules() if isinstance(preprocessor, nn.Module) else ()
        parts = [*pipeline_steps(runner.train_dataloader.dataset), *modules]
        parts = [part for part in parts if hasattr(part, 'set_epoch')]
        for part in parts:
            part.set_epoch(epoch)
        return len(parts)
