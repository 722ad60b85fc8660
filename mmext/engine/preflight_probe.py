"""Preflight, continued: a few images are sent through the training pipeline, and their objects counted.

What the annotation file promises can still be lost on the way: mmdet's `LoadAnnotations(poly2mask=False)` marks
every object with a run-length mask as ignored, a filter may drop all small boxes, a crop may miss them all. Such a
run trains on background alone and ends at 0 AP.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from mmext.engine.preflight_checks import Finding, error

# Random crops lose some objects; sixteen images that lose all of them are no accident.
NUM_IMAGES = 16


class ProbeCount(NamedTuple):
    """Objects of the probed images: in the annotations, after the pipeline, and marked as ignored there."""

    annotated: int
    kept: int
    ignored: int


def probe_pipeline(where: str, dataset: Any) -> list[Finding]:
    """Send the first images with objects through the pipeline of a built data set.

    Args:
        where: place of the data set in the config.
        dataset: the outermost data set; items packed by mmdet's `PackDetInputs`. Others are not probed.

    Returns:
        An error if not one object is left, otherwise nothing.
    """
    filled = (i for i in range(len(dataset)) if _num_objects(dataset.get_data_info(i)))
    # Each record is unpickled to be looked at: no more than needed.
    indices = list(islice(filled, NUM_IMAGES))
    if not indices:
        return []
    with untouched_randomness():
        count = count_objects(dataset, indices)
    if count is None or count.kept:
        return []
    text = (
        f'{where}: the first {len(indices)} images with objects have {count.annotated} of them '
        f'in the annotations and none after the pipeline'
    )
    if count.ignored:
        text += (
            f'; {count.ignored} came out marked as ignored. mmdet.LoadAnnotations(poly2mask=False) does that to '
            'run-length masks: remove poly2mask=False'
        )
    return [error(f'{text}. Look at the crops and filters of the pipeline.')]


def count_objects(dataset: Any, indices: list[int]) -> ProbeCount | None:
    """Count what is left of the objects of some images; None where the items are no detection samples."""
    annotated = kept = ignored = 0
    for index in indices:
        annotated += _num_objects(dataset.get_data_info(index))
        sample = dataset[index].get('data_samples')
        if sample is None or 'gt_instances' not in sample:
            return None
        kept += len(sample.gt_instances)
        ignored += len(sample.get('ignored_instances', ()))
    return ProbeCount(annotated, kept, ignored)


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
