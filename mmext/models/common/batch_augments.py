"""Augmentations of a whole batch, for `batch_augments` of mmdet's DetDataPreprocessor.

They get the normalised images (B, 3, H, W) and the data samples, whose objects are in pixels of the network input, in
the training process. (The original of DEIM has them in the collate function, where workers that live on would not
learn the epoch.) All images must fill the batch: resize to one size, without padding.

Numbers come from numpy's global generator, which mmengine seeds alike on all ranks.
"""

# A generator of our own would escape the seed of the config.
# ruff: noqa: NPY002

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor, nn

from mmext.registry import MODELS
from mmext.structures.epochs import EpochWindow

Batch = tuple[Tensor, list[DetDataSample]]


class BatchAugment(nn.Module):
    """Augments a batch with a probability, in a window of epochs.

    Attributes:
        min_images: Images that a batch must have for an effect; `mmext.PreflightHook` warns of smaller ones.

    Args:
        prob: Probability per batch.
        epochs: (begin, end), counted from 0, the end not included; None for all. `set_epoch` tells the epoch:
            `dict(type='mmext.EpochWindowsHook')` calls it.

    Raises:
        ValueError: prob lies outside [0, 1], or epochs is no window.
    """

    min_images = 1

    def __init__(self, *, prob: float = 1.0, epochs: Sequence[int | None] | None = None) -> None:
        super().__init__()
        if not 0 <= prob <= 1:
            raise ValueError(f'got prob={prob}; expected a number in [0, 1]')
        self.prob = prob
        self.window = EpochWindow(epochs)
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch, counted from 0."""
        self.epoch = epoch

    def fires(self) -> bool:
        """Draw whether the next batch is augmented."""
        if self.epoch is None:
            if not self.window.holds_all:
                print_log(
                    f'{type(self).__name__}(epochs={self.window}) was not told the epoch and takes it for 0; add '
                    "dict(type='mmext.EpochWindowsHook') to custom_hooks",
                    'current',
                    level=30,
                )
            self.epoch = 0
        return self.epoch in self.window and np.random.uniform() < self.prob

    def forward(self, inputs: Tensor, data_samples: list[DetDataSample]) -> Batch:
        """Augment, or hand the batch through.

        Args:
            inputs: (B, C, H, W), not changed.
            data_samples: B samples, changed in place.

        Returns:
            Images and samples.
        """
        return self.augment(inputs, data_samples) if self.fires() else (inputs, data_samples)

    def augment(self, inputs: Tensor, data_samples: list[DetDataSample]) -> Batch:
        """Augment; as `forward`."""
        raise NotImplementedError


@MODELS.register_module()
class BatchFirstOf(nn.Module):
    """Offers the batch to several augmentations in turn; the first that fires is the only one.

    Args:
        augments: Configs of `BatchAugment`s.
    """

    def __init__(self, augments: Sequence[dict]) -> None:
        super().__init__()
        self._in_turn: list[BatchAugment] = [MODELS.build(augment) for augment in augments]
        self.augments = nn.ModuleList(self._in_turn)

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch, counted from 0."""
        for augment in self._in_turn:
            augment.set_epoch(epoch)

    def forward(self, inputs: Tensor, data_samples: list[DetDataSample]) -> Batch:
        """As `BatchAugment.forward`."""
        for augment in self._in_turn:
            if augment.fires():
                return augment.augment(inputs, data_samples)
        return inputs, data_samples


@MODELS.register_module()
class BatchMixUp(BatchAugment):
    """Blends each image with the one before it in the batch; both keep their objects (DEIM, arXiv:2412.04234).

    beta * image_i + (1 - beta) * image_(i-1), one beta a batch. Masks are joined as boxes are. A batch of one image
    stays as it is: blended with itself it would only have every object twice.

    Args:
        beta_range: beta is drawn from this range, in [0, 1].
        prob: See `BatchAugment`.
        epochs: See `BatchAugment`.
    """

    min_images = 2

    def __init__(
        self,
        *,
        beta_range: tuple[float, float] = (0.45, 0.55),
        prob: float = 0.5,
        epochs: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(prob=prob, epochs=epochs)
        self.beta_range = checked_shares(beta_range, 'beta_range')

    def augment(self, inputs: Tensor, data_samples: list[DetDataSample]) -> Batch:
        """Blend; see `BatchAugment.forward`."""
        if len(data_samples) < self.min_images:
            return inputs, data_samples
        check_frames(inputs, data_samples, 'BatchMixUp')
        beta = np.random.uniform(*self.beta_range)
        mixed = inputs.roll(1, dims=0).mul_(1 - beta).add_(inputs, alpha=beta)
        for key in ('gt_instances', 'ignored_instances'):
            if all(key in sample for sample in data_samples):
                groups = [sample.get(key) for sample in data_samples]
                for index, sample in enumerate(data_samples):
                    sample.set_field(groups[index].cat([groups[index], groups[index - 1]]), key)
        return mixed, data_samples


class Patch(NamedTuple):
    """What of an image goes where.

    Attributes:
        window: (x1, y1, x2, y2), pixels of the source image.
        move: (dx, dy), pixels from there to the target.
    """

    window: tuple[int, int, int, int]
    move: tuple[int, int]


@MODELS.register_module()
class BatchCopyBlend(BatchAugment):
    """Blends objects of the batch into its images, at random places (DEIMv2, arXiv:2509.20787).

    Every image gets up to `max_objects` different objects of the batch, its own among them. An object comes as the
    rectangle around it, grown by a random share of its sides as far as both images reach, at a random place where its
    box fits: beta * image + (1 - beta) * rectangle, one beta a batch, rectangles of the images as they were before.
    The new box is the one that was not grown.

    The original compares the areas of the annotations with `min_area`, which its filters have left out of step
    with the boxes; here they are the areas of the present boxes.

    Args:
        max_objects: Largest number of objects per image.
        min_area: Smallest box, in square pixels of the network input.
        growth_range: Share of the width and height added on each side.
        beta_range: Weight of the image below.
        prob: See `BatchAugment`.
        epochs: See `BatchAugment`.

    Raises:
        ValueError: In use, if the objects have masks: what would be blended is not what a mask covers.
    """

    def __init__(
        self,
        *,
        max_objects: int = 3,
        min_area: float = 100,
        growth_range: tuple[float, float] = (0.1, 0.25),
        beta_range: tuple[float, float] = (0.45, 0.55),
        prob: float = 0.5,
        epochs: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(prob=prob, epochs=epochs)
        if max_objects < 1 or min_area <= 0:
            raise ValueError(
                f'got max_objects={max_objects}, min_area={min_area}; expected at least 1 and above 0'
            )
        self.max_objects = max_objects
        self.min_area = min_area
        self.growth_range = checked_shares(growth_range, 'growth_range')
        self.beta_range = checked_shares(beta_range, 'beta_range')

    def augment(self, inputs: Tensor, data_samples: list[DetDataSample]) -> Batch:
        """Blend; see `BatchAugment.forward`."""
        check_frames(inputs, data_samples, 'BatchCopyBlend')
        groups = [sample.gt_instances for sample in data_samples]
        if 'masks' in groups[0]:
            raise ValueError(
                'BatchCopyBlend: got objects with masks; it blends rectangles. Load with with_mask=False, or use '
                'mmext.PasteInstances'
            )
        everything = groups[0].cat(groups)
        # The one transfer of a batch; placing and blending need the numbers here.
        boxes = everything.bboxes.cpu().numpy()
        owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        pool = np.flatnonzero(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) >= self.min_area)
        if not len(pool):
            return inputs, data_samples
        beta = np.random.uniform(*self.beta_range)
        size = (inputs.shape[-1], inputs.shape[-2])
        blended = inputs.clone()
        for image, sample, group in zip(blended, data_samples, groups, strict=True):
            drawn = np.random.choice(pool, min(self.max_objects, len(pool)), replace=False)
            patches = [self.draw_patch(boxes[index], size) for index in drawn]
            for index, patch in zip(drawn, patches, strict=True):
                blend_patch(image, inputs[owners[index]], patch, beta)
            added = everything[torch.as_tensor(drawn, device=inputs.device)]
            moves = added.bboxes.new_tensor([patch.move for patch in patches])
            added.bboxes = added.bboxes + moves.repeat(1, 2)
            sample.gt_instances = group.cat([group, added])
        return blended, data_samples

    def draw_patch(self, box: NDArray, size: tuple[int, int]) -> Patch:
        """Draw growth and place for one object.

        Args:
            box: (4,) xyxy.
            size: (W, H) of both images.

        Returns:
            The patch: the moved box lies inside the image, and so does the window, before and after.
        """
        growth = np.random.uniform(*self.growth_range)
        starts, ends, moves = [], [], []
        for low, high, length in zip(box[:2], box[2:], size, strict=True):
            # Whole pixels; a box that reaches over the edge by a rounding error stays.
            move = int(
                np.random.randint(min(np.ceil(-low), 0), max(np.floor(length - high), 0) + 1)
            )
            margin = growth * (high - low)
            starts.append(max(int(np.floor(low - margin)), 0, -move))
            ends.append(min(int(np.ceil(high + margin)), length, length - move))
            moves.append(move)
        return Patch((starts[0], starts[1], ends[0], ends[1]), (moves[0], moves[1]))


def blend_patch(target: Tensor, source: Tensor, patch: Patch, beta: float) -> None:
    """Write beta * target + (1 - beta) * source into a rectangle of target (C, H, W)."""
    (x1, y1, x2, y2), (dx, dy) = patch
    below = target[:, y1 + dy : y2 + dy, x1 + dx : x2 + dx]
    below.mul_(beta).add_(source[:, y1:y2, x1:x2], alpha=1 - beta)


def checked_shares(bounds: Sequence[float], name: str) -> tuple[float, float]:
    """Return bounds, or raise ValueError if they are not 0 <= low <= high <= 1."""
    if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
        raise ValueError(f'got {name}={bounds}; expected (low, high) with 0 <= low <= high <= 1')
    return bounds[0], bounds[1]


def check_frames(inputs: Tensor, data_samples: list[DetDataSample], name: str) -> None:
    """Check that every image fills the batch, and that nothing would be left behind.

    Raises:
        ValueError: An image is smaller than the batch, or comes with a semantic map.
    """
    size = tuple(inputs.shape[-2:])
    shapes = [tuple(sample.img_shape) for sample in data_samples]
    for sample, shape in zip(data_samples, shapes, strict=True):
        if shape != size and len(set(shapes)) == 1:
            raise ValueError(
                f'{name}: got images of {shape} (h, w), which the data preprocessor pads to {size}; expected images that '
                'fill the batch. Choose sides in Resize or LetterBox that are multiples of its pad_size_divisor, such as '
                f'{size}'
            )
        if shape != size:
            raise ValueError(
                f'{name}: got an image of {shape} (h, w) in a batch of {size}; expected images '
                'that fill the batch. Resize all to one size with keep_ratio=False, or letterbox them'
            )
        if 'gt_sem_seg' in sample:
            raise ValueError(
                f'{name}: got samples with gt_sem_seg, which it does not change; load with with_seg=False'
            )
