"""Which images an epoch shows: balanced over classes, with a fixed share of images without objects."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from PIL import Image
from torch.utils.data import Sampler

from mmext.datasets.checks import checked_fraction
from mmext.datasets.image_files import DAMAGED
from mmext.registry import DATA_SAMPLERS
from mmext.structures.label_maps import NOT_LABELLED


class LabelledDataset(Protocol):
    """What the sampler reads of a data set: mmdet's and ours fulfil it."""

    def __len__(self) -> int: ...

    def get_data_info(self, idx: int) -> dict:
        """The record of an image; its `instances` have `bbox_label` and maybe `ignore_flag`, or see `map_labels`."""
        ...


@DATA_SAMPLERS.register_module()
class ClassBalancedSampler(Sampler[int]):
    """Draws images so that rare classes are seen more often, and empty images only as often as wanted.

    Defect data are mostly normal pieces, and one class has a tenth of the photos of another. An image with
    objects weighs max over its classes of (images of that class) ** -power (the repeat-factor idea of
    LVIS, Gupta et al. 2019, section 5.2, with 1/sqrt at power 0.5); images without objects share
    `empty_fraction` of the epoch. Weighted drawing uses systematic resampling, not independent draws: an
    image of weight w comes floor(w) or ceil(w) times, so that no image is left out by chance that
    should come at least once.

    Args:
        dataset: a data set whose records have `instances`, or `seg_map_path` as those of mmseg: then an image shows the
            classes of its map, which is read once, but for `background`.
        empty_fraction: share of the epoch, 0 to 1, that goes to images without objects. It is 0 where there
            are none and 1 where all are.
        power: 0 shows every image with objects equally often, 1 gives every class the same share.
        num_samples: length of an epoch over all ranks; None for the number of images with objects
            divided by (1 - empty_fraction).
        seed: of the order; None takes one that all ranks share.
        shuffle: for configs that say it; False is ignored with a warning.
        background: the class in maps that makes no image interesting; None where each does.

    Raises:
        ValueError: a map that cannot be read, a share or power outside its range, or an epoch of no images.
    """

    def __init__(
        self,
        dataset: LabelledDataset,
        *,
        empty_fraction: float = 0.2,
        power: float = 0.5,
        num_samples: int | None = None,
        seed: int | None = None,
        shuffle: bool = True,
        background: int | None = 0,
    ) -> None:
        checked_fraction(empty_fraction, 'empty_fraction')
        checked_fraction(power, 'power')
        if not len(dataset) or (num_samples is not None and num_samples < 1):
            raise ValueError(
                f'ClassBalancedSampler: got {len(dataset)} images and num_samples={num_samples}; '
                'expected at least one of each'
            )
        if not shuffle:
            print_log('ClassBalancedSampler always shuffles; shuffle=False is ignored', 'current')
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        records = (dataset.get_data_info(i) for i in range(len(dataset)))
        labels = [image_labels(record, background) for record in records]
        total = num_samples or _epoch_length(labels, empty_fraction)
        self.weights = image_weights(labels, empty_fraction, power) * total
        self.total = math.ceil(total / self.world_size) * self.world_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        offset = float(torch.rand((), generator=generator))
        order = torch.randperm(len(self.weights), generator=generator).numpy()
        # Systematic resampling: ticks at offset, offset + 1, ... on the cumulated weights.
        edges = np.floor(np.cumsum(self.weights[order]) - offset + 1).astype(int)
        counts = np.diff(edges, prepend=int(np.floor(1 - offset)))
        drawn = torch.from_numpy(np.repeat(order, counts))
        drawn = drawn[torch.randperm(len(drawn), generator=generator)]
        # The last ranks may lack one image: start over.
        drawn = drawn.repeat(math.ceil(self.total / len(drawn)))[: self.total]
        return iter(drawn[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        return self.total // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Another order for every epoch; called by the runner."""
        self.epoch = epoch


def image_labels(record: dict, background: int | None = None) -> list[int]:
    """The classes of an image, each once; crowds, ignored objects and the background of a map do not count."""
    if 'instances' not in record and 'seg_map_path' in record:
        return [label for label in map_labels(record) if label != background]
    instances = record.get('instances', [])
    return sorted({int(o['bbox_label']) for o in instances if not o.get('ignore_flag', 0)})


def map_labels(record: dict) -> list[int]:
    """The classes in the map of an image, as mmseg's LoadAnnotations numbers them.

    Args:
        record: of a data set of mmseg: `seg_map_path`, and perhaps `reduce_zero_label` and `label_map`.

    Raises:
        ValueError: the map cannot be read.
    """
    path = record['seg_map_path']
    try:
        with Image.open(path) as image:
            values = np.unique(np.asarray(image)).tolist()
    except DAMAGED as error:
        raise ValueError(
            f'ClassBalancedSampler: the map {path} cannot be read ({error}). Check data_prefix.seg_map_path and '
            'seg_map_suffix of the dataset'
        ) from error
    if record.get('reduce_zero_label'):
        values = [value - 1 for value in values if value not in (0, NOT_LABELLED)]
    changed = record.get('label_map') or {}
    return sorted({changed.get(value, value) for value in values} - {NOT_LABELLED})


def image_weights(
    labels: Sequence[Sequence[int]], empty_fraction: float, power: float
) -> np.ndarray:
    """Share of the epoch of each image, (N,) float64 that sums to 1.

    Args:
        labels: the classes of each image.
        empty_fraction: share of images without objects.
        power: strength of the balancing.
    """
    classes, counts = np.unique([c for image in labels for c in image], return_counts=True)
    class_weight = dict(zip(classes.tolist(), counts.astype(float) ** -power, strict=True))
    empty = np.array([not image for image in labels])
    filled = np.array([max((class_weight[c] for c in image), default=0.0) for image in labels])
    if not empty.any() or empty.all():
        return np.full(len(labels), 1 / len(labels)) if empty.all() else filled / filled.sum()
    return (1 - empty_fraction) * filled / filled.sum() + empty_fraction * empty / empty.sum()


def _epoch_length(labels: Sequence[Sequence[int]], empty_fraction: float) -> int:
    num_filled = sum(bool(image) for image in labels)
    num_empty = len(labels) - num_filled
    if not num_filled or not num_empty or empty_fraction == 1:
        return len(labels)
    return round(num_filled / (1 - empty_fraction))
