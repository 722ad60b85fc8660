"""How long the parts of a prediction take: before, in and after the network."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

# Where the forward pass of a detector ends; what follows is post-processing. Several names, since mmdet's families
# name their heads differently; the first that a model has counts. DETR and its kin in mmdet have a decoder and a head.
HEADS = ('bbox_head', 'panoptic_head', 'mask_head', 'decoder')


class Seconds(NamedTuple):
    """Wall time of one image or batch.

    Attributes:
        pre: reading, resizing, normalising.
        net: from the backbone to the raw outputs of the head. For models without a head of a known name (such as
            two-stage detectors, which select boxes in mid-network) `post` is in it.
        post: from raw outputs to objects in the photo's frame.
    """

    pre: float = 0.0
    net: float = 0.0
    post: float = 0.0

    def plus(self, other: 'Seconds') -> 'Seconds':
        """The sum, part by part."""
        return Seconds(*(a + b for a, b in zip(self, other, strict=True)))

    def divided(self, count: int) -> 'Seconds':
        """The share of one of `count`."""
        return Seconds(*(value / count for value in self))


def time_summary(seconds: Sequence[NamedTuple]) -> dict[str, dict[str, float]]:
    """`p50`, `p95` and `mean` of each part and of their sum, `total`, in seconds; empty without any.

    Args:
        seconds: of each image, with a field for each part, such as `Seconds`.
    """
    if not seconds:
        return {}
    times = np.array([[*own, sum(own)] for own in seconds])
    summary = {}
    for name, column in zip((*seconds[0]._fields, 'total'), times.T, strict=True):
        half, most = np.percentile(column, (50, 95))
        summary[name] = dict(p50=float(half), p95=float(most), mean=float(column.mean()))
    return summary


def time_table(seconds: Sequence[NamedTuple], unit: str) -> str:
    """The summary as text, in milliseconds for one `unit`; empty without any."""
    # The first pays for memory and caches that later ones reuse; P50 does not see it.
    lines = [
        f'  {name:22} {1e3 * own["p50"]:8.1f} {1e3 * own["p95"]:8.1f}'
        for name, own in time_summary(seconds).items()
    ]
    return '\n'.join([f'{f"ms a {unit}":24} {"P50":>8} {"P95":>8}', *lines]) if lines else ''


class TimedStep(NamedTuple):
    """What `timed_test_step` returns.

    Attributes:
        samples: of `model.test_step`.
        seconds: of the whole batch.
    """

    samples: list
    seconds: Seconds


@torch.no_grad()
def timed_test_step(model: nn.Module, data: dict[str, Any]) -> TimedStep:
    """`model.test_step(data)` with its time, split where the backbone begins and the head ends.

    Args:
        model: with `test_step`, as mmengine's models have it.
        data: a batch, `inputs` and `data_samples`.
    """
    clock = model_clock(model)
    moments: dict[str, float] = {}

    def begin(*_: object) -> None:
        moments.setdefault('begin', clock())

    def end(*_: object) -> None:
        moments['end'] = clock()

    handles = [part.register_forward_pre_hook(begin) for part in _parts(model, ('backbone',))]
    handles += [part.register_forward_hook(end) for part in _parts(model, HEADS)[:1]]
    start = clock()
    try:
        samples = model.test_step(data)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    stop = clock()
    net_begin, net_end = moments.get('begin', start), moments.get('end', stop)
    return TimedStep(samples, Seconds(net_begin - start, net_end - net_begin, stop - net_end))


def _parts(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Those of the named parts that the model has."""
    parts = dict(model.named_children())
    return [parts[name] for name in names if name in parts]


def model_clock(model: nn.Module) -> Callable[[], float]:
    """A clock that waits for the work that was sent to a GPU."""
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.device.type != 'cuda':
        return time.perf_counter

    def waiting_clock() -> float:
        torch.cuda.synchronize(parameter.device)
        return time.perf_counter()

    return waiting_clock
