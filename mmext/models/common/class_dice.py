"""Dice loss of semantic segmentation, one coefficient a class: rare classes count as much as the background.

mmseg's `DiceLoss` takes one coefficient over all classes of an image, which is that of the background where defects cover
one pixel in a hundred, and counts predictions on ignored pixels.

Shape letters: B images, K classes, H x W pixels.
"""

import torch
from torch import Tensor, nn

from mmext.registry import MODELS


def class_dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = 255,
    pixel_weight: Tensor | None = None,
    smooth: float = 1.0,
) -> Tensor:
    """1 - mean of the Dice coefficients of the classes that the batch shows.

    A class's coefficient is taken over all pixels of the batch together: single images show a few pixels of it, or none.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) of 0 to K - 1, or `ignore_index`.
        ignore_index: pixels that take no part.
        pixel_weight: (B, H, W), not negative; None for 1.
        smooth: pixels added to both sides of the fraction.

    Returns:
        A scalar in [0, 1], fp32; 0 with a gradient of 0 where every pixel is ignored.
    """
    valid = labels != ignore_index
    weight = valid.float() if pixel_weight is None else pixel_weight.float() * valid
    probs = logits.float().softmax(dim=1)
    target = labels.where(valid, 0)[:, None]  # B x 1 x H x W
    # Sums over the batch, of each class: K.
    found = (probs * weight[:, None]).sum(dim=(0, 2, 3))
    classes = target.flatten()
    area = torch.zeros_like(found).index_add_(0, classes, weight.flatten())
    hit = probs.gather(1, target)[:, 0] * weight  # B x H x W
    common = torch.zeros_like(found).index_add_(0, classes, hit.flatten())
    dice = (2 * common + smooth) / (found + area + smooth)
    is_shown = (area > 0).float()
    return ((1 - dice) * is_shown).sum() / is_shown.sum().clamp(min=1)


@MODELS.register_module()
class ClassDiceLoss(nn.Module):
    """`class_dice_loss` as a loss of mmseg's decode heads, beside a cross-entropy.

    Args:
        loss_weight: of the loss.
        smooth: see `class_dice_loss`.
        loss_name: in the log; must begin with 'loss_' to be learnt from.
    """

    def __init__(
        self, loss_weight: float = 1.0, *, smooth: float = 1.0, loss_name: str = 'loss_dice'
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.smooth = smooth
        self.loss_name = loss_name

    def forward(
        self,
        seg_logits: Tensor,
        seg_label: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """See `class_dice_loss`; the arguments are mmseg's."""
        return self.loss_weight * class_dice_loss(
            seg_logits,
            seg_label,
            ignore_index=ignore_index,
            pixel_weight=weight,
            smooth=self.smooth,
        )
