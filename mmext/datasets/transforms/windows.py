"""Transforms that run in some epochs only."""

from collections.abc import Sequence, Sized

import torch
from mmcv.transforms import BaseTransform, Compose

from mmext.registry import TRANSFORMS
from mmext.structures.epochs import EpochWindow

UNKNOWN = -1


@TRANSFORMS.register_module()
class InEpochs(BaseTransform):
    """Runs its transforms in a window of epochs and hands samples through in the others.

    `dict(type='mmext.EpochWindowsHook')` among the hooks tells it the epoch. The number lies in shared memory, so
    that workers which were started before, persistent ones too, read the present value.

    In the pipeline of a `mmdet.MultiImageMixDataset` one of the transforms may ask for other images, as
    `mmext.GridMosaic` does; none are loaded outside the window.

    Args:
        transforms: Their configs, in order.
        epochs: (begin, end), counted from 0, the end not included; end None is the end of training.

    Raises:
        ValueError: If the window is empty or two transforms ask for other images; and in use, if nobody told
            the epoch: the windows would stay closed, and nothing would say so.
    """

    def __init__(
        self, transforms: Sequence[dict | BaseTransform], *, epochs: Sequence[int | None]
    ) -> None:
        self.transforms = Compose(list(transforms))
        self.window = EpochWindow(epochs)
        self._epoch = torch.tensor(UNKNOWN)
        self._mixers = [step for step in self.transforms if hasattr(step, 'get_indexes')]
        if len(self._mixers) > 1:
            raise ValueError(
                f'got {len(self._mixers)} transforms that ask for other images in one InEpochs; expected at '
                'most one. Give each an InEpochs of its own'
            )

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch, counted from 0; before the workers start, or at any time later."""
        # A copy of the pipeline, as of a data set that was split, has a copy of the number outside shared memory.
        self._epoch.share_memory_().fill_(epoch)

    @property
    def is_open(self) -> bool:
        """Whether the transforms run in the present epoch."""
        epoch = int(self._epoch)
        if epoch == UNKNOWN:
            raise ValueError(
                f'InEpochs(epochs={self.window}) does not know the epoch. Add '
                "dict(type='mmext.EpochWindowsHook') to custom_hooks; without a runner, call set_epoch"
            )
        return epoch in self.window

    def get_indexes(self, dataset: Sized) -> list[int]:
        """The indices of the other images that the transforms need for the next sample."""
        if not self._mixers or not self.is_open:
            return []
        return self._mixers[0].get_indexes(dataset)

    def transform(self, results: dict) -> dict | None:
        """Run on one sample; None where one of the transforms drops it."""
        return self.transforms(results) if self.is_open else results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(epochs={self.window}, transforms={self.transforms.transforms})'
        )
