"""The loss of refined masks: cross entropy and Dice on regions about jittered ground-truth boxes.

Shape letters: B images, M ground truths of the batch one after another, N positives sorted by image, K prototypes,
D channels of the context, h w the size of the prototypes, R cells of a region's side.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.yolo.mask_losses import MaskPositives
from mmext.models.yolo.refiner import (
    MaskRefiner,
    RoiInputs,
    cell_centres,
    expand_boxes,
    sample_regions,
)
from mmext.registry import MODELS


@MODELS.register_module()
class RefineLoss(nn.Module):
    """Binary cross entropy plus Dice of the refined logits, the mean over regions.

    The gradient reaches the refiner through its delta, and coefficients and prototypes through the coarse logit that
    the delta is added to.

    Args:
        loss_weight: factor of the term.
        max_positives: positives per image that are refined, drawn at random, those of different objects first.
        jitter: how far each side of a box may move at most, as a part of the box's length along that axis:
            predicted boxes are not exact, and the refiner must not rely on where they end.

    Raises:
        ValueError: `max_positives` below 1, `jitter` outside [0, 0.5).
    """

    def __init__(
        self, loss_weight: float = 1.0, *, max_positives: int = 64, jitter: float = 0.1
    ) -> None:
        super().__init__()
        if max_positives < 1:
            raise ValueError(f'RefineLoss: got max_positives={max_positives}, expected at least 1.')
        if not 0 <= jitter < 0.5:
            raise ValueError(
                f'RefineLoss: got jitter={jitter}, expected a part of a box in [0, 0.5).'
            )
        self.loss_weight = loss_weight
        self.max_positives = max_positives
        self.jitter = jitter

    def forward(
        self,
        refiner: MaskRefiner,
        prototypes: Tensor,
        context: Tensor,
        *,
        positives: MaskPositives,
        input_size: tuple[int, int],
    ) -> Tensor:
        """Refine the positives and score them.

        Args:
            refiner: the network.
            prototypes: (B, K, h, w).
            context: (B, D, h, w).
            positives: at most `max_positives` of each image.
            input_size: (height, width) of the network input.

        Returns:
            A scalar; 0 with a gradient where there are no positives.
        """
        bboxes = jitter_boxes(positives.bboxes[positives.gt], self.jitter)
        regions = expand_boxes(bboxes, refiner.expansion)
        size = refiner.train_size
        inputs = sample_batch(prototypes, context, positives, regions, size, input_size)
        logits = inputs.coarse + refiner(inputs)
        extent = regions.new_tensor([input_size[1], input_size[0]])
        points = cell_centres(regions, size) / extent
        targets = sample_truth(positives.masks, positives.gt, points)
        # All images stay in the graph, those without positives too.
        anchor = 0 * (prototypes.sum() + context.sum() + positives.coeffs.sum())
        return anchor + self.loss_weight * region_loss(logits, targets)


def region_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy plus Dice (eps 1) per region, the mean over regions; 0 without any.

    Args:
        logits: (N, R, R).
        targets: (N, R, R) in {0, 1}.
    """
    logits, targets = logits.float().flatten(1), targets.flatten(1)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction='none')
    probability = logits.sigmoid()
    common = (probability * targets).sum(dim=1)
    dice = 1 - (2 * common + 1) / (probability.sum(dim=1) + targets.sum(dim=1) + 1)
    return (entropy.mean(dim=1) + dice).sum() / max(len(logits), 1)


def jitter_boxes(bboxes: Tensor, jitter: float) -> Tensor:
    """Move each side of boxes (N, 4) xyxy by up to `jitter` of the box's length along its axis."""
    lengths = (bboxes[:, 2:] - bboxes[:, :2]).repeat(1, 2)
    return bboxes + (2 * torch.rand_like(bboxes) - 1) * jitter * lengths


def sample_batch(
    prototypes: Tensor,
    context: Tensor,
    positives: MaskPositives,
    regions: Tensor,
    size: int,
    input_size: tuple[int, int],
) -> RoiInputs:
    """`sample_regions` for the positives of every image, one image after another."""
    num = positives.num_per_image
    parts = [
        sample_regions(*own, size=size, input_size=input_size)
        for own in zip(
            positives.coeffs.split(num), prototypes, context, regions.split(num), strict=True
        )
        if len(own[0]) > 0
    ]
    if not parts:
        empty = (0, size, size)
        return RoiInputs(
            prototypes.new_zeros(empty), context.new_zeros(0, context.shape[1], size, size)
        )
    return RoiInputs(*(torch.cat(part) for part in zip(*parts, strict=True)))


def sample_truth(masks: Tensor, gt: Tensor, points: Tensor) -> Tensor:
    """Masks at points, each the pixel that it lies in; beyond the image, the nearest pixel of its edge.

    Args:
        masks: (M, H, W) uint8 in {0, 1}, spanning the network input.
        gt: (N,) row of each positive's mask.
        points: (N, R, R, 2) x, y as parts of the network input.

    Returns:
        (N, R, R) float32.
    """
    height, width = masks.shape[-2:]
    column = (points[..., 0] * width).long().clamp(0, width - 1)
    row = (points[..., 1] * height).long().clamp(0, height - 1)
    return masks[gt[:, None, None], row, column].float()
