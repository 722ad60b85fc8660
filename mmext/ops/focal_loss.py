"""Sigmoid and softmax focal loss: mmcv's `sigmoid_focal_loss_*` and `softmax_focal_loss_*`.

Paper: Focal Loss for Dense Object Detection, Lin et al., ICCV 2017
(https://arxiv.org/abs/1708.02002). N samples, C classes. The compiled ops exist on CUDA only and
clip probabilities at the smallest normal float32 before they take logarithms, so a confident
mistake (|logit| above about 17) costs 87.3 and no more; so it is here.
"""

import torch
from torch import Tensor

from mmext.ops.precision import widen

_SMALLEST = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the unreduced loss of each logit into `output`.

    Args:
        input: (N, C) logits.
        target: (N,) int64 class in [0, C); any other value is background, negative for every class.
        weight: (C,) weight of the samples of each class (background counts 1), or empty for none.
        output: filled; (N, C).
        gamma: exponent that plays down easy samples.
        alpha: weight of the positive entries, 1 - alpha that of the negative ones.
    """
    prob = widen(input).sigmoid()
    positive = (1 - prob) ** gamma * _log(prob)
    negative = prob**gamma * _log(1 - prob)
    loss = -torch.where(_is_target(input, target), alpha * positive, (1 - alpha) * negative)
    output.copy_(_weighted(loss, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of each entry of the loss by its own logit into `grad_input` (N, C)."""
    prob = widen(input).sigmoid()
    positive = (1 - prob) ** gamma * (1 - prob - gamma * prob * _log(prob))
    negative = prob**gamma * (gamma * (1 - prob) * _log(1 - prob) - prob)
    grad = -torch.where(_is_target(input, target), alpha * positive, (1 - alpha) * negative)
    grad_input.copy_(_weighted(grad, target, weight))


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of each sample into `output`.

    Args:
        input: (N, C) probabilities, the softmax of the logits (mmcv computes it before the call).
        target: (N,) int64 class in [0, C); a negative value gives no loss.
        weight: (C,) weight of the samples of each class, or empty for none.
        output: filled; (N,).
        gamma: exponent that plays down easy samples.
        alpha: weight of the whole loss.
    """
    prob = _target_prob(widen(input), target)
    loss = -alpha * (1 - prob) ** gamma * _log(prob)
    output.copy_(_weighted(loss.where(target >= 0, 0), target, weight))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of each sample's loss by its logits into `grad_input` (N, C).

    `buff` (N,) receives the factor that all logits of a sample share, as in the compiled op.
    """
    probs = widen(input)
    prob = _target_prob(probs, target)
    rest = 1 - prob
    factor = alpha * (gamma * rest ** (gamma - 1) * prob * _log(prob) - rest**gamma)
    factor = _weighted(factor.where(target >= 0, 0), target, weight)
    buff.copy_(factor)
    grad_input.copy_(factor[:, None] * (_is_target(input, target).to(probs) - probs))


def _log(prob: Tensor) -> Tensor:
    return prob.clamp(min=_SMALLEST).log()


def _is_target(input: Tensor, target: Tensor) -> Tensor:
    """(N, C) bool: whether the column is the sample's class."""
    return target[:, None] == torch.arange(input.size(1), device=input.device)


def _target_prob(probs: Tensor, target: Tensor) -> Tensor:
    """(N,) probability of each sample's class, or of class 0 for a negative target."""
    return probs.gather(1, target.clamp(min=0)[:, None])[:, 0]


def _weighted(values: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The values (N,) or (N, C) times the weight of each sample's class; 1 for other targets."""
    if weight.numel() == 0:
        return values
    # The compiled op reads past the end of `weight` for the background label C.
    known = (target >= 0) & (target < len(weight))
    factor = widen(weight)[target.where(known, 0)].where(known, 1)
    return values * (factor[:, None] if values.dim() == 2 else factor)
