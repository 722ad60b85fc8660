"""The precision the ops compute in: float32 at least, whatever the inputs and autocast say."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec('P')
R = TypeVar('R')


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is float64; its gradient history is kept."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def outside_autocast(op: Callable[P, R]) -> Callable[P, R]:
    """Let `op` run outside autocast, like the compiled kernels, which autocast does not know.

    Without it the matrix products inside an op would silently run in bfloat16.
    """

    @functools.wraps(op)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast('cpu', enabled=False), torch.autocast('cuda', enabled=False):
            return op(*args, **kwargs)

    return wrapped
