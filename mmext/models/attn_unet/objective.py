"""What a matte is compared with, and the sum of the losses that compare.

Shapes: N batch, H x W the network input, C logits: 1, or 2 whose difference is the one that counts.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class MatteTruth(NamedTuple):
    """Truth of a batch.

    Attributes:
        alpha: (N, 1, H, W) float32 in [0, 1].
        valid: (N, 1, H, W) bool, False in the padding and where the truth is unknown.
        images: (N, 3, H, W) float32 RGB in [0, 1].
    """

    alpha: Tensor
    valid: Tensor
    images: Tensor


def matte_logits(seg_logits: Tensor) -> Tensor:
    """The logit of the foreground, (N, 1, H, W), of one logit or of two (background, foreground).

    The softmax of two logits is the sigmoid of their difference.
    """
    return seg_logits if seg_logits.shape[1] == 1 else seg_logits[:, 1:] - seg_logits[:, :1]


def matte_losses(
    seg_logits: Tensor, truth: MatteTruth, losses: Iterable[nn.Module], *, align_corners: bool
) -> dict[str, Tensor]:
    """Every loss of some logits, resized to the truth.

    Args:
        seg_logits: (N, C, h, w).
        truth: of the batch.
        losses: modules with a `loss_name`, called with logits, alpha, valid and images.
        align_corners: of the resizing.

    Returns:
        loss_name -> scalar; losses of one name are added.
    """
    logits = resize_matte(matte_logits(seg_logits), truth.alpha.shape[2:], align_corners)
    found: dict[str, Tensor] = {}
    for loss in losses:
        value = loss(logits, truth.alpha, truth.valid, truth.images)
        name = str(loss.loss_name)
        found[name] = found[name] + value if name in found else value
    return found


@torch.no_grad()
def matte_accuracy(
    seg_logits: Tensor, truth: MatteTruth, threshold: float, *, align_corners: bool
) -> Tensor:
    """Share of the valid pixels on the right side of the threshold, in percent; 0 where none is valid."""
    logits = resize_matte(matte_logits(seg_logits), truth.alpha.shape[2:], align_corners)
    right = (logits.sigmoid() > threshold) == (truth.alpha > threshold)
    return 100.0 * (right & truth.valid).sum() / truth.valid.sum().clamp(min=1)


def resize_matte(logits: Tensor, size: tuple[int, ...], align_corners: bool) -> Tensor:
    """Logits at another size, float32."""
    if logits.shape[2:] == size:
        return logits.float()
    return functional.interpolate(
        logits.float(), size=size, mode='bilinear', align_corners=align_corners
    )
