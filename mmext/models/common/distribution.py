"""Distances as distributions over bins: the focal loss of a continuous distance (https://arxiv.org/abs/2006.04388)."""

import torch
from torch import Tensor
from torch.nn import functional


def distribution_focal_loss(distribution: Tensor, distance: Tensor) -> Tensor:
    """Cross entropy with the two bins around each distance, weighted by nearness (arXiv:2006.04388).

    Args:
        distribution: (..., R) logits over the distances 0 .. R - 1.
        distance: (...) in cells. Values outside [0, R - 1.01] are clamped to it: a longer side cannot be
            represented, and the bin after the last does not exist.

    Returns:
        (...).
    """
    num_bins = distribution.shape[-1]
    distance = distance.clamp(0, num_bins - 1 - 0.01)
    left = distance.floor()
    log_prob = functional.log_softmax(distribution, dim=-1)
    bins = torch.stack([left, left + 1], dim=-1).long()
    near_left, near_right = log_prob.gather(-1, bins).unbind(dim=-1)
    right_weight = distance - left
    return -(near_left * (1 - right_weight) + near_right * right_weight)
