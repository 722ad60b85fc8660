"""Preflight, continued: a few images are sent through the training pipeline, and their objects counted.

What the annotation file promises can still be lost on the way: mmdet's `LoadAnnotations(poly2mask=False)` marks
every object with a run-length mask as ignored, a filter may drop all small boxes, a crop may miss them all. Such a
run trains on background alone and ends at 0 AP. Where loading ignores a part of the objects, it trains on the rest.
Objects can come out too long for the head, too: only behind the pipeline are they as large as the network sees them.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from mmext.engine.preflight_boxes import BoxLimit, check_box_lengths
from mmext.engine.preflight_checks import Finding, error, warning

# Random crops lose some objects; sixteen images that lose all of them are no accident.
NUM_IMAGES = 16
RUN_LENGTHS = (
    'mmdet.LoadAnnotations(poly2mask=False) does that to run-length masks: remove poly2mask=False'
)


class ProbeCount(NamedTuple):
    """Objects of the probed images.

    Attributes:
        annotated: number in the annotations.
        kept: number after the pipeline.
        ignored: number that it marked as ignored.
        lengths: longer side of the box of each that was kept, in pixels of the network input.
    """

    annotated: int
    kept: int
    ignored: int
    lengths: list[float]


def probe_pipeline(where: str, dataset: Any, limit: BoxLimit | None = None) -> list[Finding]:
    """Send the first images with objects through the pipeline of a built data set.

    Args:
        where: place of the data set in the config.
        dataset: the outermost data set; items packed by mmdet's `PackDetInputs`. Others are not probed.
        limit: the longest box of the head; None where there is no such limit.

    Returns:
        An error if not one object is left, a warning if some are longer than the limit, otherwise nothing.
    """
    indices = filled_images(dataset)
    if not indices:
        return []
    with untouched_randomness():
        count = count_objects(dataset, indices)
    if count is None:
        return []
    if count.kept:
        return [] if limit is None else check_box_lengths(where, count.lengths, limit)
    text = (
        f'{where}: the first {len(indices)} images with objects have {count.annotated} of them '
        f'in the annotations and none after the pipeline'
    )
    if count.ignored:
        text += f'; {count.ignored} came out marked as ignored. {RUN_LENGTHS}'
    return [error(f'{text}. Look at the crops and filters of the pipeline.')]


def probe_loading(where: str, dataset: Any) -> list[Finding]:
    """Load the first images with objects, without what the pipeline does to them afterwards.

    Args:
        where: place of the data set in the config.
        dataset: a data set without wrappers, built. One whose pipeline loads no boxes as mmdet does is not probed.

    Returns:
        A warning if loading marks objects as ignored that the annotations do not.
    """
    indices = filled_images(dataset)
    with untouched_randomness():
        num_ignored = sum(num_newly_ignored(dataset, index) for index in indices)
    if not num_ignored:
        return []
    return [
        warning(
            f'{where}: loading marks {num_ignored} objects of the first {len(indices)} images that have any as '
            f'ignored, and they are not learnt. {RUN_LENGTHS}; polygons of less than three points are ignored too'
        )
    ]


def filled_images(dataset: Any) -> list[int]:
    """Indices of the first images with objects. Each record is unpickled to be looked at: no more than needed."""
    filled = (i for i in range(len(dataset)) if _num_objects(dataset.get_data_info(i)))
    return list(islice(filled, NUM_IMAGES))


def num_newly_ignored(dataset: Any, index: int) -> int:
    """Number of objects of an image that its pipeline loads as ignored, although its record does not say so."""
    results = dataset.get_data_info(index)
    # Counted now: mmdet's LoadAnnotations writes its verdict into the record.
    num_crowds = len(results['instances']) - _num_objects(results)
    for step in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        results = step(results)
        if results is None:
            break
        if 'gt_ignore_flags' in results:
            return int(np.sum(results['gt_ignore_flags'])) - num_crowds
    return 0


def count_objects(dataset: Any, indices: list[int]) -> ProbeCount | None:
    """Count what is left of the objects of some images; None where the items are no detection samples."""
    annotated = kept = ignored = 0
    lengths: list[float] = []
    for index in indices:
        annotated += _num_objects(dataset.get_data_info(index))
        sample = dataset[index].get('data_samples')
        if sample is None or 'gt_instances' not in sample:
            return None
        kept += len(sample.gt_instances)
        ignored += len(sample.get('ignored_instances', ()))
        lengths += box_lengths(sample.gt_instances)
    return ProbeCount(annotated, kept, ignored, lengths)


def box_lengths(instances: Any) -> list[float]:
    """Longer side of each box of `gt_instances`; nothing where there are no boxes."""
    if 'bboxes' not in instances:
        return []
    bboxes = getattr(instances.bboxes, 'tensor', instances.bboxes)  # mmdet's box type, or plain
    return (bboxes[:, 2:] - bboxes[:, :2]).amax(dim=1).tolist()


def evenly_spread(length: int, limit: int) -> list[int]:
    """Indices of up to `limit` samples of `length`, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, limit)).astype(int)).tolist()


def no_loader(where: str, kind: str, step: str) -> Finding:
    """The error for a pipeline that never loads the truth.

    Args:
        where: place of the data set in the config.
        kind: of truth, such as 'alpha files'.
        step: type of the step that loads it.
    """
    return error(
        f"{where}: the samples have {kind}, and no step of the pipeline loads them; add dict(type='{step}')"
    )


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Put the global generators back afterwards: a look must not change what the run draws."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _num_objects(record: dict) -> int:
    return sum(not instance.get('ignore_flag') for instance in record.get('instances', ()))
