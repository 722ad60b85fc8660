"""Learning rate over the iterations of a training."""

import math
import warnings

from mmengine.optim import BaseOptimWrapper, _ParamScheduler
from torch.optim import Optimizer

from mmext.registry import PARAM_SCHEDULERS


def flat_cosine(
    step: int, *, total: int, flat: int, no_aug: int, warmup: int, gamma: float
) -> float:
    """Share of the base learning rate at a step, which counts from 0.

    Up to `warmup` it rises as a square from 0 to 1, up to `flat` it stays 1, then falls as half a cosine to `gamma`,
    which it has reached `no_aug` steps before `total`.
    """
    if step <= warmup:
        return (step / warmup) ** 2 if warmup else 1.0
    if step <= flat:
        return 1.0
    if step >= total - no_aug:
        return gamma
    progress = (step - flat) / (total - flat - no_aug)
    return gamma + (1 - gamma) * 0.5 * (1 + math.cos(math.pi * progress))


@PARAM_SCHEDULERS.register_module()
class FlatCosineLR(_ParamScheduler):
    """Warm-up, flat learning rate, cosine down to a share of it, and a constant end without augmentation.

    Source: DEIM (https://arxiv.org/abs/2412.04234). The rate of every iteration is `flat_cosine` of its number, and
    does not depend on what the rate was before; every parameter group scales its own base rate. Iteration 0 has rate
    0 where there is a warm-up. Use it alone: it includes the warm-up.

    In a config give `flat` and `no_aug` in epochs, `warmup` in iterations, and `convert_to_iter_based=True`; `end` is
    by default the length of the training, which the Runner fills in.

    Args:
        optimizer: whose groups are scheduled.
        flat: last iteration (epochs in a config) of the flat rate, warm-up included.
        no_aug: iterations (epochs in a config) at the end with the lowest rate.
        warmup: iterations of the warm-up.
        end: iterations (epochs in a config) of the training.
        gamma: lowest rate as a share of the base rate, in [0, 1]. With 1 the rate stays flat.
        lag: whether to repeat the original's lag, for exact reproduction: iteration k uses the rate of k - 1, and
            iteration 0 the base rate / 500.
        by_epoch: False; True is for configs that are converted.
        verbose: whether to log every change.

    Raises:
        ValueError: the steps count epochs, lengths are negative or do not fit into each other, or `gamma` is out of
            its range.
    """

    def __init__(
        self,
        optimizer: Optimizer | BaseOptimWrapper,
        *,
        flat: int,
        no_aug: int,
        warmup: int,
        end: int,
        gamma: float = 0.5,
        lag: bool = False,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if by_epoch:
            raise ValueError(
                'FlatCosineLR: got by_epoch=True, but its steps are iterations; set convert_to_iter_based=True, with '
                'flat and no_aug in epochs, or by_epoch=False, with all lengths in iterations.'
            )
        if min(flat, no_aug, warmup) < 0 or not 0 <= gamma <= 1:
            raise ValueError(
                f'FlatCosineLR: got flat={flat}, no_aug={no_aug}, warmup={warmup}, gamma={gamma}; expected lengths of '
                'at least 0 and gamma in [0, 1].'
            )
        if gamma < 1 and flat + no_aug > end:
            raise ValueError(
                f'FlatCosineLR: got flat={flat} and no_aug={no_aug} iterations in a training of {end}; expected '
                'flat + no_aug to fit into it: train longer, shorten them, or set gamma=1 for a constant rate.'
            )
        if gamma < 1 and warmup > flat:
            warnings.warn(
                f'FlatCosineLR: the warm-up of {warmup} iterations is longer than the flat part of {flat}; the rate '
                'drops where the warm-up ends. Shorten the warm-up.',
                stacklevel=2,
            )
        self.total = end
        self.flat = flat
        self.no_aug = no_aug
        self.warmup = warmup
        self.gamma = gamma
        self.lag = lag
        super().__init__(optimizer, 'lr', end=end, by_epoch=by_epoch, verbose=verbose)

    @classmethod
    def build_iter_from_epoch(
        cls,
        optimizer: Optimizer | BaseOptimWrapper,
        *,
        flat: float,
        no_aug: float,
        warmup: int,
        end: int,
        epoch_length: int,
        gamma: float = 0.5,
        lag: bool = False,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> 'FlatCosineLR':
        """Build it with `flat`, `no_aug` and `end` in epochs, as mmengine does with `convert_to_iter_based`.

        Args: those of the class, and
            epoch_length: iterations of an epoch.

        Raises:
            ValueError: `by_epoch` is False.
        """
        if not by_epoch:
            raise ValueError(
                'FlatCosineLR: got convert_to_iter_based=True with by_epoch=False; leave one of them out.'
            )
        return cls(
            optimizer,
            flat=int(flat * epoch_length),
            no_aug=int(no_aug * epoch_length),
            warmup=warmup,
            end=int(end * epoch_length),
            gamma=gamma,
            lag=lag,
            by_epoch=False,
            verbose=verbose,
        )

    def _get_value(self) -> list[float]:
        """Rates of all groups for the iteration `last_step`."""
        if self.lag and self.last_step == 0:
            share = 1 / 500
        else:
            share = flat_cosine(
                self.last_step - int(self.lag),
                total=self.total,
                flat=self.flat,
                no_aug=self.no_aug,
                warmup=self.warmup,
                gamma=self.gamma,
            )
        return [share * base for base in self.base_values]
