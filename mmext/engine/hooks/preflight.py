"""The preflight as a hook; the checks themselves are in `mmext.engine.preflight`."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmext.engine.checkpoint import bare_model
from mmext.engine.preflight import (
    Finding,
    box_limit,
    check_loaders,
    head_classes,
    leaf_datasets,
    report_findings,
)
from mmext.engine.preflight_checks import check_num_classes, check_vocabulary
from mmext.engine.preflight_evaluators import check_evaluator
from mmext.engine.preflight_labels import check_ignored_label
from mmext.engine.preflight_pixels import check_pixel_range
from mmext.engine.preflight_probe import probe_loading, probe_pipeline
from mmext.engine.preflight_recipe import Length, check_batch, check_lengths
from mmext.registry import HOOKS


@HOOKS.register_module()
class PreflightHook(Hook):
    """Stops a run whose data, metainfo, model and metrics do not fit, before its first step.

    Checks the training and validation data before training, and the data of `val` and `test` runs
    before those: category names and ids, label order, `num_classes` of every head, images on disk, boxes that
    survive loading and the training pipeline, boxes longer than the head can predict, boxes outside the image,
    images shared between splits, the metric's annotation file, the values of mattes and of maps of classes. Warns
    where the schedule or a window of epochs is not made for the length of the training, and batches are too small
    for an augmentation. Logs one line a data set with the label histogram. The cost is one more reading of the
    annotation files and of up to 200 maps (1200 where the first class is no background), and loading sixteen images twice.

    Raises:
        ValueError: with all mistakes found, the differing names side by side and the line to change.
    """

    # Before EMA, visualization and anything else that would fail on a wrong set-up less clearly.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._checked: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Checks the training data and, if there is validation, the validation data."""
        datasets = {'train_dataloader': runner.train_dataloader.dataset}
        evaluators = {}
        if runner.val_loop is not None:
            datasets['val_dataloader'] = runner.val_dataloader.dataset
            evaluators['val_dataloader'] = runner.val_evaluator
        self._check(runner, datasets, evaluators)
        model = bare_model(runner.model)
        report_findings(
            recipe_findings(runner) + check_pixel_range(model) + check_ignored_label(model)
        )

    def before_val(self, runner: Runner) -> None:
        """Checks the validation data of a run without training."""
        loader = 'val_dataloader'
        self._check(runner, {loader: runner.val_dataloader.dataset}, {loader: runner.val_evaluator})

    def before_test(self, runner: Runner) -> None:
        """Checks the test data."""
        loader = 'test_dataloader'
        self._check(
            runner, {loader: runner.test_dataloader.dataset}, {loader: runner.test_evaluator}
        )

    def _check(self, runner: Runner, datasets: dict[str, Any], evaluators: dict[str, Any]) -> None:
        """Checks what has not been checked yet; validation comes back after every epoch."""
        new = {name: data for name, data in datasets.items() if name not in self._checked}
        if not new:
            return
        self._checked |= set(new)
        findings = check_loaders(new)
        for loader, dataset in new.items():
            leaves = [leaf for _, leaf in leaf_datasets(dataset, loader)]
            classes = leaves[0].metainfo.get('classes') or ()
            if classes:
                model = bare_model(runner.model)
                findings += check_num_classes(head_classes(model), classes)
                findings += check_vocabulary(getattr(model, 'vocabulary', None), classes)
            if loader in evaluators:
                cfg = runner.cfg.get(loader.replace('dataloader', 'evaluator'))
                findings += check_evaluator(loader, leaves, evaluators[loader], cfg)
            # Where something is wrong already, building a sample may fail less clearly.
            if loader == 'train_dataloader' and not any(finding.is_error for finding in findings):
                findings += _probe(f'{loader}.dataset', dataset, bare_model(runner.model))
        report_findings(list(dict.fromkeys(findings)))


def recipe_findings(runner: Runner) -> list[Finding]:
    """What of the recipe does not fit the length of a training, or the size of its batches."""
    loop = runner.train_loop
    epochs = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else None
    batch_size = getattr(runner.train_dataloader, 'batch_size', None)
    return [
        *check_lengths(runner.cfg, Length(epochs, loop.max_iters)),
        *check_batch(bare_model(runner.model), batch_size),
    ]


def _probe(where: str, dataset: Any, model: nn.Module) -> list[Finding]:
    """Objects that the pipeline of a data set loses altogether, or else in part, or hands on too long."""
    findings = probe_pipeline(where, dataset, box_limit(model))
    if any(finding.is_error for finding in findings):
        return findings
    leaves = leaf_datasets(dataset, where)
    return findings + [finding for leaf in leaves for finding in probe_loading(*leaf)]
