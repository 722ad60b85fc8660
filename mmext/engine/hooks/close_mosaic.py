"""The last epochs of a YOLO recipe: no mosaic, no mixup, no pasting."""

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.registry import HOOKS


@HOOKS.register_module()
class CloseMosaicHook(Hook):
    """Skips transforms of a `mmdet.MultiImageMixDataset` in the last epochs (YOLOX, section 2.1).

    mmdet's `YOLOXModeSwitchHook` also switches an L1 loss on that our heads do not have.

    Args:
        num_last_epochs: epochs at the end that do without, at least 1.
        transforms: the types as the config writes them.

    Raises:
        ValueError: the data set is no MultiImageMixDataset, or its pipeline has none of `transforms`.
    """

    def __init__(
        self,
        num_last_epochs: int = 10,
        *,
        transforms: Sequence[str] = (
            'mmext.Mosaic',
            'mmext.MixUp',
            'mmext.FlipPaste',
            'mmext.PasteInstances',
        ),
    ) -> None:
        if num_last_epochs < 1:
            raise ValueError(
                f'CloseMosaicHook: got num_last_epochs={num_last_epochs}, expected at least 1; '
                'remove the hook to keep mosaic to the end'
            )
        self.num_last_epochs = num_last_epochs
        self.transforms = tuple(transforms)
        self.closed = False

    def before_train(self, runner: Runner) -> None:
        """Check that there is something to close, before hours are spent."""
        types = getattr(runner.train_dataloader.dataset, 'pipeline_types', None)
        if types is None or not set(types) & set(self.transforms):
            raise ValueError(
                f'CloseMosaicHook finds none of {list(self.transforms)} in the training data: '
                f'got {"no mmdet.MultiImageMixDataset" if types is None else list(types)}. '
                'Remove the hook, or name the transforms as the config does.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Close on the first of the last epochs, or at once in a run resumed behind it."""
        if self.closed or runner.epoch < runner.max_epochs - self.num_last_epochs:
            return
        loader = runner.train_dataloader
        loader.dataset.update_skip_type_keys(list(self.transforms))
        # Persistent workers hold their own copy of the data set; without an iterator the loader starts new ones.
        loader._iterator = None
        self.closed = True
        runner.logger.info(f'The last {self.num_last_epochs} epochs do without {self.transforms}')
