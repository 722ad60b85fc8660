"""A branch for training alone: which class covers each cell of the finest level, to teach the features shapes.

Shape letters: B images, C classes, M ground truths of the batch one after another, h w the size of the finest level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.yolo.branches import plain_branch
from mmext.models.yolo.targets import block_sums
from mmext.registry import MODELS


@MODELS.register_module()
class SemanticBranch(nn.Module):
    """3x3, 3x3, 1x1 on the finest level. Predictions do not need it, and the head does not run it for them.

    Args:
        in_channels: channels of the finest level.
        num_classes: C.
        hidden_channels: channels between.
        norm_cfg: normalisation of the 3x3 convolutions.
        act_cfg: activation of the 3x3 convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden_channels: int,
        norm_cfg: dict | None,
        act_cfg: dict | None,
    ) -> None:
        super().__init__()
        layer = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.layers = plain_branch(in_channels, hidden_channels, num_classes, **layer)

    def forward(self, finest: Tensor) -> Tensor:
        """Finest level (B, in_channels, h, w) to logits (B, C, h, w)."""
        return self.layers(finest)


@MODELS.register_module()
class SemanticLoss(nn.Module):
    """Half binary cross entropy, half Dice of every class, against the part of a cell that the class covers.

    Args:
        loss_weight: factor of the term.
    """

    def __init__(self, loss_weight: float = 7.5) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits and targets in [0, 1], both (B, C, h, w), to a scalar."""
        logits = logits.float()
        entropy = functional.binary_cross_entropy_with_logits(logits, targets)
        probability = logits.sigmoid()
        common = (probability * targets).sum(dim=(2, 3))
        dice = 1 - (2 * common + 1) / (probability + targets).sum(dim=(2, 3)).add(1)
        return self.loss_weight * (entropy + dice.mean()) / 2


def semantic_targets(
    labels: Sequence[Tensor], masks: Tensor, *, num_classes: int, size: tuple[int, int]
) -> Tensor:
    """The part of each cell that a class covers; of several instances of a class, the one that covers most.

    A part, not a vote: a crack of two pixels wins no cell of eight.

    Args:
        labels: per image (g,) int64 in [0, C).
        masks: (M, H, W) uint8 in {0, 1}, H and W the same multiple of h and w.
        num_classes: C.
        size: (h, w).

    Returns:
        (B, C, h, w) float32 in [0, 1].

    Raises:
        ValueError: masks that are coarser than the cells.
    """
    stride, rest = divmod(masks.shape[-1], size[1])
    if rest:
        raise ValueError(
            f'semantic branch: got masks {masks.shape[-1]} pixels wide for a finest level of {size[1]} cells, expected a '
            'multiple of it. Choose a mask_stride of loss_mask that divides the first of the strides.'
        )
    coverage = block_sums(masks, stride) / stride**2
    image = torch.repeat_interleave(torch.tensor([len(own) for own in labels])).to(masks.device)
    target = coverage.new_zeros(len(labels) * num_classes, *size)
    place = image * num_classes + torch.cat(list(labels))
    target.scatter_reduce_(0, place[:, None, None].expand_as(coverage), coverage, 'amax')
    return target.unflatten(0, (len(labels), num_classes))
