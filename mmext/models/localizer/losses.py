"""The loss of one object an image: its class and its box, in shares that sum to 1.

Shape letters: B images, K classes. Boxes are xyxy, 1 being the width and the height of the network input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.localizer.outputs import Localization, LocalizerTargets
from mmext.registry import MODELS

BALANCED = 'balanced'


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Weights that let every class count the same: images / (classes * images of the class).

    Classes that do not occur get 0, which nothing reads, and do not count as classes.

    Args:
        counts: images of each class, at least one of them.

    Raises:
        ValueError: there are no images.
    """
    num_present = sum(count > 0 for count in counts)
    if not num_present:
        raise ValueError(
            f'got class counts {list(counts)}; expected at least one labelled image to compute class weights from'
        )
    return [sum(counts) / (num_present * count) if count else 0.0 for count in counts]


@MODELS.register_module()
class LocalizationLoss(nn.Module):
    """(1 - alpha) * class loss + alpha * box loss, each a mean over the images that have an object.

    Args:
        num_classes: K.
        loss_box: config of the box loss: `mmdet.MSELoss`, `mmdet.SmoothL1Loss`, `mmdet.GIoULoss`, `mmext.CIoULoss` or any
            other module that takes predicted and true boxes (n, 4) xyxy in [0, 1] and returns their mean.
        alpha: share of the box.
        class_weight: weights of the classes in their cross entropy (weighted mean); 'balanced' computes them from the
            numbers that `set_class_counts` is told (`dict(type='mmext.ClassWeightHook')` does so before training);
            None weighs all the same.
        label_smoothing: share of the target that is spread over all classes.

    Raises:
        ValueError: alpha lies outside [0, 1], or the weights are not K positive numbers.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        num_classes: int,
        loss_box: dict[str, Any],
        *,
        alpha: float = 0.7,
        class_weight: Sequence[float] | str | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f'LocalizationLoss: got alpha={alpha}, expected a share in [0, 1]')
        self.loss_box = MODELS.build(loss_box)
        self.alpha = alpha
        self.label_smoothing = label_smoothing
        self.is_balanced = class_weight == BALANCED
        weights = None if self.is_balanced else _checked_weights(class_weight, num_classes)
        # Not persistent: they belong to the training data, not to the model.
        self.register_buffer('class_weight', weights, persistent=False)

    def set_class_counts(self, counts: Sequence[int]) -> None:
        """Tell how many images of each class there are; without effect where the weights are given."""
        if self.is_balanced:
            self.class_weight = torch.tensor(balanced_weights(counts))

    def forward(self, outputs: Localization, targets: LocalizerTargets) -> dict[str, Tensor]:
        """Both losses, weighted.

        Returns:
            `loss_class` and `loss_box`, scalars; 0 with a gradient of 0 where no image has an object.

        Raises:
            ValueError: the weights are to be computed from numbers that nobody has told.
        """
        if self.is_balanced and self.class_weight is None:
            raise ValueError(
                "LocalizationLoss: got class_weight='balanced' and no numbers of images to compute the weights from. "
                "Add dict(type='mmext.ClassWeightHook') to custom_hooks, or write the weights into the config."
            )
        logits, boxes = outputs.class_logits.float(), outputs.boxes.float()
        nothing = dict(loss_class=logits.sum() * 0, loss_box=boxes.sum() * 0)
        known = targets.known
        if not known.any():
            return nothing
        weight = None if self.class_weight is None else self.class_weight.to(logits.device)
        loss_class = functional.cross_entropy(
            logits[known], targets.labels[known], weight, label_smoothing=self.label_smoothing
        )
        loss_box = self.loss_box(boxes[known], targets.boxes[known])
        return dict(loss_class=(1 - self.alpha) * loss_class, loss_box=self.alpha * loss_box)


def _checked_weights(weights: Sequence[float] | str | None, num_classes: int) -> Tensor | None:
    if weights is None:
        return None
    if isinstance(weights, str) or len(weights) != num_classes or not min(weights) > 0:
        raise ValueError(
            f'LocalizationLoss: got class_weight={weights!r}, expected {num_classes} positive numbers, one a class, '
            f'{BALANCED!r} or None'
        )
    return torch.tensor(weights, dtype=torch.float32)
