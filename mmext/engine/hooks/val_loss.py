"""Losses on the validation data."""

from collections import defaultdict
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmext.engine.checkpoint import bare_model
from mmext.registry import HOOKS


def has_truth(sample: BaseDataElement) -> bool:
    """Whether a data sample holds ground truth; mmdet packs an empty `gt_instances` without annotations."""
    return 'gt_sem_seg' in sample or 'labels' in sample.get('gt_instances', ())


@HOOKS.register_module()
class ValLossHook(Hook):
    """Logs the training losses on the validation data, as `val/loss` and its parts.

    Costs a second forward pass for each validation batch. The model is in eval mode, with averaged weights if
    there are any, and the losses are means over images. The validation pipeline must load the annotations.

    Raises:
        ValueError: if the validation samples have no ground truth.
    """

    def before_val_epoch(self, runner: Runner) -> None:
        """Starts a new sum."""
        self._sums: dict[str, float] = defaultdict(float)
        self._num_images = 0

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Adds the losses of one batch."""
        model: Any = bare_model(runner.model)
        data = model.data_preprocessor(data_batch, False)
        samples = data['data_samples']
        if not all(has_truth(sample) for sample in samples):
            raise ValueError(
                'ValLossHook needs ground truth: add LoadAnnotations to '
                'val_dataloader.dataset.pipeline, before the samples are packed'
            )
        with torch.no_grad():
            _, values = model.parse_losses(model(**data, mode='loss'))
        for name, value in values.items():
            self._sums[name] += float(value) * len(samples)
        self._num_images += len(samples)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Hands the means to the log."""
        for name, total in self._sums.items():
            runner.message_hub.update_scalar(f'val/{name}', total / self._num_images)
