"""Losses of mattes: cross entropy, Dice, edges and Laplacian pyramid, each as a pure function and as a registered module.

All take logits, a soft truth and the pixels where the truth is known, in float32 whatever autocast says. What stands in
the truth where it is unknown, NaN included, reaches neither the loss nor its gradient.

Shape letters: N images, H W the network input.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.attn_unet.image_filters import erode, laplacian_pyramid, sobel
from mmext.ops.precision import outside_autocast, widen
from mmext.registry import MODELS

DENOMINATORS = ('squared', 'linear')


def matte_bce(logits: Tensor, alpha: Tensor, valid: Tensor) -> Tensor:
    """Mean cross entropy of the known pixels. For a soft truth its minimum is the entropy of the truth, not 0.

    Args:
        logits: (N, 1, H, W).
        alpha: (N, 1, H, W) in [0, 1].
        valid: (N, 1, H, W) in {0, 1}.

    Returns:
        A scalar; 0 where nothing is known.
    """
    total = functional.binary_cross_entropy_with_logits(logits, alpha, valid, reduction='sum')
    return total / valid.sum().clamp(min=1)


def matte_dice(
    prediction: Tensor,
    alpha: Tensor,
    valid: Tensor,
    *,
    denominator: str = 'squared',
    epsilon: float = 1.0,
) -> Tensor:
    """1 - Dice of each image, averaged. 0 for two empty mattes.

    With squares in the denominator (V-Net, https://arxiv.org/abs/1606.04797) the minimum, 0, lies at prediction = alpha.
    Linear sums pull a soft truth towards 0 and 1: for alpha = 0.5 everywhere 1 scores better than 0.5.

    Args:
        prediction: (N, 1, H, W) in [0, 1].
        alpha: (N, 1, H, W) in [0, 1].
        valid: (N, 1, H, W) in {0, 1}.
        denominator: 'squared' or 'linear'.
        epsilon: added to both sides of the fraction, in pixels.

    Returns:
        A scalar in [0, 1].
    """
    overlap = (valid * prediction * alpha).flatten(1).sum(dim=1)
    power = 2 if denominator == 'squared' else 1
    areas = (valid * (prediction**power + alpha**power)).flatten(1).sum(dim=1)
    return (1 - (2 * overlap + epsilon) / (areas + epsilon)).mean()


def alpha_edge(
    prediction: Tensor, alpha: Tensor, valid: Tensor, *, magnitude: bool = False
) -> Tensor:
    """L1 distance of the Sobel gradients, averaged over the pixels whose 3 x 3 neighbourhood is known.

    Args:
        prediction: (N, 1, H, W) in [0, 1].
        alpha: (N, 1, H, W) in [0, 1].
        valid: (N, 1, H, W) in {0, 1}.
        magnitude: compare the lengths of the gradients, not their components.

    Returns:
        A scalar; 0 where nothing is known.
    """
    valid = erode(valid)
    if magnitude:
        # The constant keeps the gradient of the root finite where the matte is flat.
        lengths = [
            (sobel(own) ** 2).sum(dim=1, keepdim=True).add(1e-6).sqrt()
            for own in (prediction, alpha)
        ]
        distance = (lengths[0] - lengths[1]).abs()
    else:
        # The filter is linear: one pass over the difference.
        distance = sobel(prediction - alpha).abs().sum(dim=1, keepdim=True)
    return (valid * distance).sum() / valid.sum().clamp(min=1)


def laplacian_distance(
    prediction: Tensor, alpha: Tensor, valid: Tensor, *, num_levels: int = 5
) -> Tensor:
    """Weighted L1 distance of the levels of the Laplacian pyramids: mean of 2^l |difference| over the levels l = 0, 1, ...

    Of the last level the blurred remainder counts, so that a constant offset is not free. Unknown pixels count as right.

    Args:
        prediction: (N, 1, H, W) in [0, 1].
        alpha: (N, 1, H, W) in [0, 1].
        valid: (N, 1, H, W) in {0, 1}.
        num_levels: at least 1.

    Returns:
        A scalar; 0 where nothing is known.
    """
    # The pyramid is linear: that of the difference.
    levels = laplacian_pyramid(valid * (prediction - alpha), num_levels)
    total = sum(2**index * level.abs().mean() for index, level in enumerate(levels))
    known = valid.mean().clamp(min=1 / valid.numel())
    return total / (num_levels * known)


class MatteLoss(nn.Module):
    """What the losses of mattes share: the weight, the checks and the precision.

    Args:
        loss_weight: factor of the term; 0 switches it off, and nothing is computed.

    Attributes:
        loss_name: key of the term in the log.
    """

    loss_name = 'loss_matte'

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(loss_weight) and loss_weight >= 0):
            raise ValueError(
                f'{type(self).__name__}: got loss_weight={loss_weight}, expected a finite number of at least 0'
            )
        self.loss_weight = loss_weight

    @outside_autocast
    def forward(self, logits: Tensor, alpha: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """The weighted term.

        Args:
            logits: (N, 1, H, W), the network's output before the sigmoid.
            alpha: (N, 1, H, W) in [0, 1]; anything where it is unknown.
            valid: (N, 1, H, W) bool, where the truth is known.
            images: (N, 3, H, W) RGB in [0, 1].

        Returns:
            A scalar that carries a gradient for any truth.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        self._check(logits, alpha, valid, images)
        logits = widen(logits)
        if self.loss_weight == 0:
            return (0 * logits).sum()
        alpha = torch.where(valid, alpha.to(logits.dtype), 0)
        term = self.term(logits, alpha, valid.to(logits.dtype), images.to(logits.dtype))
        return self.loss_weight * term

    def term(self, logits: Tensor, alpha: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """The term without its weight; all in float32, `alpha` 0 where `valid` is."""
        raise NotImplementedError

    def _check(self, logits: Tensor, alpha: Tensor, valid: Tensor, images: Tensor) -> None:
        expected = (logits.shape[0], 1, *logits.shape[2:])
        for name, own in (('logits', logits), ('alpha', alpha), ('valid', valid)):
            if own.shape != expected:
                raise ValueError(
                    f'{type(self).__name__}: got {name} of shape {tuple(own.shape)}, expected {expected}: one logit '
                    'and one truth of its size for every pixel'
                )
        if valid.dtype != torch.bool:
            raise ValueError(f'{type(self).__name__}: got valid of {valid.dtype}, expected bool')
        if images.shape != (expected[0], 3, *expected[2:]):
            raise ValueError(
                f'{type(self).__name__}: got images of shape {tuple(images.shape)}, expected '
                f'{(expected[0], 3, *expected[2:])}'
            )


@MODELS.register_module()
class MatteBCELoss(MatteLoss):
    """Binary cross entropy, see `matte_bce`."""

    loss_name = 'loss_bce'

    def term(self, logits: Tensor, alpha: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """See `MatteLoss.term`."""
        return matte_bce(logits, alpha, valid)


@MODELS.register_module()
class MatteDiceLoss(MatteLoss):
    """Dice of each image, see `matte_dice`.

    Args:
        loss_weight: factor of the term.
        denominator: 'squared', right for soft mattes, or 'linear'.
        epsilon: see `matte_dice`.
    """

    loss_name = 'loss_dice'

    def __init__(
        self, loss_weight: float = 1.0, *, denominator: str = 'squared', epsilon: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        if denominator not in DENOMINATORS:
            raise ValueError(
                f'MatteDiceLoss: got denominator={denominator!r}, expected one of {DENOMINATORS}'
            )
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise ValueError(f'MatteDiceLoss: got epsilon={epsilon}, expected a number above 0')
        self.denominator = denominator
        self.epsilon = epsilon

    def term(self, logits: Tensor, alpha: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """See `MatteLoss.term`."""
        return matte_dice(
            logits.sigmoid(), alpha, valid, denominator=self.denominator, epsilon=self.epsilon
        )


@MODELS.register_module()
class AlphaEdgeLoss(MatteLoss):
    """Sobel gradients, see `alpha_edge`.

    Args:
        loss_weight: factor of the term.
        magnitude: see `alpha_edge`.
    """

    loss_name = 'loss_edge'

    def __init__(self, loss_weight: float = 0.3, *, magnitude: bool = False) -> None:
        super().__init__(loss_weight)
        self.magnitude = magnitude

    def term(self, logits: Tensor, alpha: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """See `MatteLoss.term`."""
        return alpha_edge(logits.sigmoid(), alpha, valid, magnitude=self.magnitude)


@MODELS.register_module()
class LaplacianPyramidLoss(MatteLoss):
    """Laplacian pyramids, see `laplacian_distance`.

    Args:
        loss_weight: factor of the term.
        num_levels: levels of the pyramid.
    """

    loss_name = 'loss_laplacian'

    def __init__(self, loss_weight: float = 1.0, *, num_levels: int = 5) -> None:
        super().__init__(loss_weight)
        if num_levels < 1:
            raise ValueError(
                f'LaplacianPyramidLoss: got num_levels={num_levels}, expected at least 1'
            )
        self.num_levels = num_levels

    def term(self, logits: Tensor, alpha: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """See `MatteLoss.term`."""
        return laplacian_distance(logits.sigmoid(), alpha, valid, num_levels=self.num_levels)
