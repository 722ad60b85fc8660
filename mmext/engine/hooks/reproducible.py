"""Random numbers that depend on the epoch alone, so that a resumed run repeats the uninterrupted one."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmext.registry import HOOKS

MAIN_PROCESS = 0


def seed_everything(*entropy: int) -> None:
    """Seeds python, numpy and torch (all devices) from a tuple of numbers, each independently."""
    words = np.random.SeedSequence(entropy).generate_state(4, np.uint32)
    random.seed(int(words[0]))
    # Transforms of mmcv and mmdet draw from numpy's global generator.
    np.random.seed(int(words[1]))  # noqa: NPY002
    torch.manual_seed((int(words[2]) << 32) + int(words[3]))


def seed_worker(
    worker_id: int, *, entropy: tuple[int, ...], original: Callable[[int], None] | None
) -> None:
    """Start of a loader's worker: what the config asks for, then the seeds."""
    if original is not None:
        original(worker_id)
    seed_everything(*entropy, worker_id + 1)


def wrapped_datasets(dataset: Any) -> Iterator[Any]:
    """A dataset and all datasets inside it."""
    yield dataset
    inner = [getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', ())]
    for child in inner:
        if child is not None:
            yield from wrapped_datasets(child)


def clear_caches(dataset: Any) -> None:
    """Empties the image caches that transforms like CachedMosaic fill as they go."""
    for part in wrapped_datasets(dataset):
        pipeline = getattr(part, 'pipeline', None)
        # A Compose holds a list; MultiImageMixDataset has the bare list.
        steps = getattr(pipeline, 'transforms', pipeline)
        for transform in steps if isinstance(steps, list) else ():
            if hasattr(transform, 'results_cache'):
                transform.results_cache = []


@HOOKS.register_module()
class ReproducibleHook(Hook):
    """Seeds this process and the loader's workers anew for every epoch, from (seed, epoch, rank, worker).

    mmengine seeds once, at the start, and does not store the state of the generators: a resumed run draws
    other numbers than the uninterrupted one. It also gives workers that are not persistent the same seed in
    every epoch. With this hook, the seed of the config and `--deterministic`, a run resumed from epoch k ends
    with the same weights, bit by bit, on the CPU.

    Persistent workers are restarted at each epoch, since there is no way to seed them from outside.
    The order of images is the sampler's business (DefaultSampler shuffles from seed and epoch).
    """

    # Before the hook that switches pipelines, which restarts the loader too.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._original: Callable[[int], None] | None = None

    def before_train(self, runner: Runner) -> None:
        """Remembers the workers' own start function; warns where epochs do not exist."""
        self._original = runner.train_dataloader.worker_init_fn
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            print_log(
                'ReproducibleHook has an effect in epoch-based training only', 'current', level=30
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Seeds for the coming epoch."""
        entropy = (runner.seed, runner.epoch, runner.rank)
        loader: DataLoader = runner.train_dataloader
        loader.worker_init_fn = partial(seed_worker, entropy=entropy, original=self._original)
        # A loader with persistent workers keeps its iterator; without one it starts new workers.
        loader._iterator = None
        clear_caches(loader.dataset)
        seed_everything(*entropy, MAIN_PROCESS)
