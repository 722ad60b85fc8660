"""The three convolutional branches of a level: box distances, class scores, mask coefficients.

Each is a sequence of three whose last is the predictor, a plain 1x1 convolution with bias.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mmext.models.common.layers import ConvNormAct


def plain_branch(in_channels: int, hidden: int, out_channels: int, **layer: Any) -> nn.Sequential:
    """3x3, 3x3, 1x1: box and coefficient branches, and the v8 class branch.

    Args:
        in_channels: channels of the level.
        hidden: channels of the two 3x3 convolutions.
        out_channels: channels of the prediction.
        layer: `norm_cfg` and `act_cfg` of the convolutions.
    """
    return nn.Sequential(
        ConvNormAct(in_channels, hidden, kernel_size=3, **layer),
        ConvNormAct(hidden, hidden, kernel_size=3, **layer),
        nn.Conv2d(hidden, out_channels, 1),
    )


def separable_branch(
    in_channels: int, hidden: int, out_channels: int, **layer: Any
) -> nn.Sequential:
    """(depthwise 3x3, 1x1) twice, 1x1: the v11 class branch. Arguments as in `plain_branch`."""
    return nn.Sequential(
        _separable_conv(in_channels, hidden, **layer),
        _separable_conv(hidden, hidden, **layer),
        nn.Conv2d(hidden, out_channels, 1),
    )


def _separable_conv(in_channels: int, out_channels: int, **layer: Any) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(in_channels, in_channels, kernel_size=3, groups=in_channels, **layer),
        ConvNormAct(in_channels, out_channels, **layer),
    )


CLASS_BRANCHES = {'v8': plain_branch, 'v11': separable_branch}


def check_priors(class_prior: float | None, box_prior: float | None, reg_max: int) -> None:
    """Raise ValueError for priors that `set_class_prior` and `set_box_prior` cannot start from."""
    if class_prior is not None and not 0 < class_prior < 1:
        raise ValueError(f'Segment: got class_prior={class_prior}, expected a number in (0, 1).')
    # The middle of the bins is the largest mean that a falling distribution over them can have.
    largest = (reg_max - 1) / 2
    if box_prior is not None and not 0 < box_prior <= largest:
        raise ValueError(
            f'Segment: got box_prior={box_prior} cells, expected above 0 and at most {largest}, the middle of '
            f'reg_max={reg_max}; None is that.'
        )


def set_class_prior(
    branch: nn.Module, prior: float | None, *, num_classes: int, stride: int
) -> None:
    """Start the class probabilities of a branch at `prior`.

    None: log of 5 objects, each of one of the classes, among the cells of a 640 x 640 image (as published).
    """
    if prior is None:
        bias = torch.tensor(5 / num_classes / (640 / stride) ** 2).log()
    else:
        bias = torch.tensor(prior).logit()
    _set_predictor_bias(branch, bias)


def set_box_prior(branch: nn.Module, prior: float | None, *, num_bins: int) -> None:
    """Start the distances of a branch at about `prior` cells; None: in the middle of the bins, as published.

    Of all distributions over 0, 1, 2, ... with that mean, the geometric one assumes least: bin i has a
    probability proportional to (prior / (1 + prior))^i. The bins end, so small priors are met best.
    """
    ratio = 1.0 if prior is None else prior / (1 + prior)
    side = torch.arange(num_bins) * torch.tensor(ratio).log()
    _set_predictor_bias(branch, side.repeat(4))


def _set_predictor_bias(branch: nn.Module, bias: Tensor) -> None:
    with torch.no_grad():
        branch.get_parameter('2.bias').copy_(bias)
