"""Training at several sizes: each batch is resized to a size drawn from a weighted list."""

# A generator of our own would escape the seed of the config.
# ruff: noqa: NPY002

from collections.abc import Sequence

import numpy as np
from mmdet.structures import DetDataSample
from torch import Tensor
from torch.nn import functional

from mmext.models.common.batch_augments import Batch, BatchAugment, check_frames
from mmext.registry import MODELS

STEP = 32


def weighted_sizes(base_size: int, repeat: int) -> list[int]:
    """Every multiple of 32 from 3/4 to 5/4 of base_size, which itself comes `repeat` times.

    For 640 they are 480, 512, ..., 608, 640 (repeat times), 672, ..., 800.
    """
    reach = base_size // 4 // STEP
    below = [base_size - STEP * i for i in range(reach, 0, -1)]
    above = [base_size + STEP * i for i in range(1, reach + 1)]
    return [*below, *[base_size] * repeat, *above]


@MODELS.register_module()
class BatchRandomSize(BatchAugment):
    """Resizes each batch, pixels by the nearest one, to a size from `weighted_sizes` (DEIMv2, arXiv:2509.20787).

    Boxes, masks, `img_shape`, `pad_shape` and `batch_input_shape` follow. Every rank draws for itself; seeded alike, as
    by mmengine, ranks draw the same sizes as long as nothing else lets their generators drift apart.

    mmdet's BatchSyncRandomResize draws every tenth batch from an unweighted range and interpolates bilinearly.

    Args:
        base_size: Side of the square images that come in, a multiple of 32.
        repeat: How many times the list holds the base size: 20 for S, 6 for M, 3 for L and X.
        epochs: See `BatchAugment`.

    Raises:
        ValueError: base_size or repeat is out of range; in use, if the images are not of base_size.
    """

    def __init__(
        self, base_size: int = 640, *, repeat: int, epochs: Sequence[int | None] | None = None
    ) -> None:
        super().__init__(epochs=epochs)
        if base_size < 4 * STEP or base_size % STEP or repeat < 1:
            raise ValueError(
                f'got base_size={base_size}, repeat={repeat}; expected a multiple of {STEP} from {4 * STEP} and a '
                'count of at least 1'
            )
        self.base_size = base_size
        self.sizes = weighted_sizes(base_size, repeat)

    def augment(self, inputs: Tensor, data_samples: list[DetDataSample]) -> Batch:
        """Resize; see `BatchAugment.forward`."""
        check_frames(inputs, data_samples, 'BatchRandomSize')
        if inputs.shape[-2:] != (self.base_size, self.base_size):
            raise ValueError(
                f'BatchRandomSize(base_size={self.base_size}): got images of {tuple(inputs.shape[-2:])} (h, w); '
                'resize them to base_size in the pipeline, or change base_size with the size of the input'
            )
        size = self.sizes[np.random.randint(len(self.sizes))]
        if size == self.base_size:
            return inputs, data_samples
        for sample in data_samples:
            resize_sample(sample, size, size / self.base_size)
        return functional.interpolate(inputs, size=(size, size), mode='nearest'), data_samples


def resize_sample(sample: DetDataSample, size: int, ratio: float) -> None:
    """Put a sample into the frame of a square image of another size.

    Args:
        sample: Changed in place.
        size: The new side.
        ratio: The new side over the old one.
    """
    shape = (size, size)
    sample.set_metainfo(dict(img_shape=shape, pad_shape=shape, batch_input_shape=shape))
    for key in ('gt_instances', 'ignored_instances'):
        if key in sample:
            instances = sample.get(key)
            instances.bboxes = instances.bboxes * ratio
            if 'masks' in instances:
                instances.masks = instances.masks.resize(shape)
