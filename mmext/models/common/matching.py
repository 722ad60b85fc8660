"""One-to-one matching of queries to objects: pairwise costs as matrix products, and the Hungarian algorithm.

Sources: DETR (https://arxiv.org/abs/2005.12872) for the matching, Mask2Former (https://arxiv.org/abs/2112.01527) for
costs on points. The costs equal mmdet's `ClassificationCost`, `CrossEntropyLossCost` and `DiceCost`; they are given
float32 outside of autocast, since half precision turns them into infinities.

Shape letters: N outputs of a decoder that are matched each on its own, Q queries, G objects of an image, C classes,
P points.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

# Stands for a cost that is not a number: above every real one, and small enough for float32 sums.
FORBIDDEN_COST = 1e6


class Match(NamedTuple):
    """Matched pairs of an image, over all outputs, each (m,) int64.

    Attributes:
        output: which output of the decoder, in [0, N), ascending.
        query: in [0, Q).
        gt: in [0, G).
    """

    output: Tensor
    query: Tensor
    gt: Tensor


class CostWarning:
    """Says once that costs of pairs are no numbers, and where they come from.

    Training goes on, as a single bad batch in half precision need not end it: `solve_assignments` never chooses such a pair
    while there is another way.

    Args:
        owner: what matches, for the message.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._has_warned = False

    def __call__(self, find_cause: Callable[[], str]) -> None:
        """Warn, unless it has; `find_cause` tells what is not finite, and is asked only then."""
        if self._has_warned:
            return
        self._has_warned = True
        warnings.warn(
            f'{self.owner}: got matching costs that are infinite or not a number; not finite: {find_cause()}. Such pairs '
            'are matched only where there is no other way. If the losses stay finite, ignore this; if it is the first '
            'iteration, check the pretrained weights; else lower the learning rate, clip gradients, or train in bfloat16 '
            'or float32. This warning is not repeated.',
            stacklevel=3,
        )


def are_finite(arrays: Sequence[np.ndarray]) -> bool:
    """Whether every entry of all arrays is a number."""
    return all(bool(np.isfinite(own).all()) for own in arrays)


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the probability of each object's class: logits (..., Q, C + 1), labels (G,) to (..., Q, G)."""
    return -logits.softmax(dim=-1)[..., labels]


def cross_entropy_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy, mean over points: logits (..., Q, P), targets (G, P) in [0, 1] to (..., Q, G).

    -t log p - (1 - t) log(1 - p) = softplus(x) - t x, whose first term does not depend on the object.
    """
    return (functional.softplus(logits).sum(-1, keepdim=True) - logits @ targets.T) / len(targets.T)


def dice_cost(logits: Tensor, targets: Tensor, eps: float = 1.0) -> Tensor:
    """1 - Dice coefficient: logits (..., Q, P), targets (G, P) in [0, 1] to (..., Q, G)."""
    probability = logits.sigmoid()
    overlap = 2 * probability @ targets.T
    total = probability.sum(-1, keepdim=True) + targets.sum(-1)
    return 1 - (overlap + eps) / (total + eps)


def copy_to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Tensors of any shapes on one device as float32 arrays, in one transfer."""
    values = torch.cat([tensor.detach().float().flatten() for tensor in tensors]).cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors])
    return [
        own.reshape(tensor.shape)
        for own, tensor in zip(np.split(values, ends[:-1]), tensors, strict=True)
    ]


def solve_assignments(costs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Match each output of each image at the lowest total cost.

    Args:
        costs: (N, Q, G) of each image. Those that are infinite or not a number count as `FORBIDDEN_COST`, without
            a word: the caller reports them.

    Returns:
        (2, N, min(Q, G)) int64 of each image: query, in ascending order, and object of each pair.
    """
    return [
        np.stack([_solve(cost) for cost in own], axis=1)  # 2 x N x min(Q, G)
        for own in costs
    ]


def match_hungarian(costs: Sequence[Tensor]) -> list[Match]:
    """Match each output of each image at the lowest total cost.

    All costs go to the CPU in one transfer and all matches come back in one.

    Args:
        costs: (N, Q, G) of each image. Costs that are infinite or not a number are never chosen while there is
            another way, and warned of.

    Returns:
        Matches of each image, min(Q, G) for every output.
    """
    values = copy_to_host(costs)
    if not are_finite(values):
        # Of no object that would remember: Python shows the same text once.
        CostWarning('match_hungarian')(lambda: 'the costs')
    pairs = [_name_outputs(own) for own in solve_assignments(values)]
    matches = torch.from_numpy(np.concatenate(pairs, axis=1)).to(costs[0].device)
    return [Match(*own) for own in matches.split([own.shape[1] for own in pairs], dim=1)]


def _solve(cost: np.ndarray) -> np.ndarray:
    """Cost (Q, G) to (2, min(Q, G)) int64: query and object of each pair."""
    finite = np.nan_to_num(cost, nan=FORBIDDEN_COST, posinf=FORBIDDEN_COST, neginf=FORBIDDEN_COST)
    return np.stack(linear_sum_assignment(finite)).astype(np.int64)


def _name_outputs(pairs: np.ndarray) -> np.ndarray:
    """Pairs (2, N, m) of an image to (3, N m): output, query, object."""
    _, num_outputs, num_pairs = pairs.shape
    outputs = np.repeat(np.arange(num_outputs), num_pairs)
    return np.concatenate([outputs[None], pairs.reshape(2, -1)])
