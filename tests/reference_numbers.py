"""Weights and inputs from a formula, as the reference numbers in `tests/golden` were made with: standard normal
numbers of a generator that is seeded with the entry's name."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def named_array(name: str, shape: Sequence[int], scale: float = 1.0) -> Tensor:
    """Normal numbers of standard deviation `scale`, the same for the same name and shape."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.tensor(generator.standard_normal(tuple(shape)) * scale, dtype=torch.float32)


def named_weight(name: str, shape: Sequence[int]) -> Tensor:
    """Value of a state-dict entry: running variances near 1, scales near 1, biases near 0, kernels by fan-in."""
    leaf = name.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return torch.tensor(0)
    if leaf == 'running_var':
        return 1 + 0.2 * named_array(name, shape).abs()
    if leaf == 'running_mean' or leaf.endswith('bias'):  # `in_proj_bias` too
        return named_array(name, shape, 0.1)
    if len(shape) <= 1:
        return 1 + named_array(name, shape, 0.1)
    return named_array(name, shape, int(np.prod(shape[1:])) ** -0.5)
