"""Losses of the masks that coefficients and prototypes make: on every pixel, or on sampled points.

Both average the binary cross entropy over the inside of each positive's ground-truth box, then over the positives.

Shape letters: B images, M ground truths of the batch one after another, N positive priors sorted by image,
K prototypes, h w their size, S points, P slots for the positives of one ground truth.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mmext.models.yolo.targets import rank_within_group
from mmext.registry import MODELS

bce = functional.binary_cross_entropy_with_logits

# Divisors of 32, which every network input is a multiple of, whose block sums fit in uint8.
MASK_STRIDES = (1, 2, 4, 8)


class MaskPositives(NamedTuple):
    """The positive priors of a batch, and the truth that they share.

    Attributes:
        coeffs: (N, K) mask coefficients.
        gt: (N,) int64, row of each positive's ground truth in `bboxes` and `masks`.
        bboxes: (M, 4) xyxy in pixels of the network input.
        masks: (M, H / mask_stride, W / mask_stride) uint8 in {0, 1}.
        num_per_image: positives of each image, B numbers.
        gts_per_image: ground truths of each image, B numbers.
    """

    coeffs: Tensor
    gt: Tensor
    bboxes: Tensor
    masks: Tensor
    num_per_image: list[int]
    gts_per_image: list[int]


class MaskLoss(nn.Module):
    """What both mask losses share: weight, strides, the cap on positives, and memory-bounded chunks.

    Args:
        loss_weight: factor of the term.
        mask_stride: pixels of the network input per pixel of the ground-truth masks. The head pools the masks
            to it.
        max_positives: positives per image that enter the loss, the best aligned first; each ground truth keeps
            one at least, also where an image has more ground truths than that. None takes all.
        max_chunk_values: logits that are held at a time. More are computed in chunks whose activations are
            recomputed in the backward pass.
    """

    def __init__(
        self,
        loss_weight: float,
        mask_stride: int,
        max_positives: int | None,
        max_chunk_values: int,
    ) -> None:
        super().__init__()
        if mask_stride not in MASK_STRIDES:
            raise ValueError(
                f'mask loss: got mask_stride={mask_stride}, expected one of {MASK_STRIDES}.'
            )
        if max_positives is not None and max_positives < 1:
            raise ValueError(
                f'mask loss: got max_positives={max_positives}, expected None or at least 1.'
            )
        self.loss_weight = loss_weight
        self.mask_stride = mask_stride
        self.max_positives = max_positives
        self.max_chunk_values = max_chunk_values

    def _sum_in_chunks(
        self, term: Callable[..., Tensor], rows: tuple[Tensor, ...], values_per_row: int
    ) -> Tensor:
        """Sum `term(*rows)` over chunks of the rows' common first axis."""
        num_rows = len(rows[0])
        size = max(1, self.max_chunk_values // values_per_row)
        if num_rows <= size:
            return term(*rows)
        chunks = zip(*(row.split(size) for row in rows), strict=True)
        return torch.stack([checkpoint(term, *c, use_reentrant=False) for c in chunks]).sum()


@MODELS.register_module()
class DenseMaskLoss(MaskLoss):
    """Cross entropy at every mask pixel inside the ground-truth box.

    Logits are brought to the masks' size first where `mask_stride` differs from the prototypes'. Divided by the
    box area, not by the number of pixels inside, as the published models are trained.

    Args:
        loss_weight: factor of the term.
        mask_stride: see `MaskLoss`; 4 is that of the published prototypes. Smaller strides give finer outlines and cost
            memory with the square.
        max_positives: see `MaskLoss`.
        max_chunk_values: see `MaskLoss`.
    """

    def __init__(
        self,
        loss_weight: float = 7.5,
        *,
        mask_stride: int = 4,
        max_positives: int | None = None,
        max_chunk_values: int = 2**24,
    ) -> None:
        super().__init__(loss_weight, mask_stride, max_positives, max_chunk_values)

    def forward(self, prototypes: Tensor, positives: MaskPositives) -> Tensor:
        """Prototypes (B, K, h, w) and the positives to a scalar; 0 with a gradient where there are none."""
        total = 0 * (prototypes.sum() + positives.coeffs.sum())
        values_per_row = positives.masks.shape[-2] * positives.masks.shape[-1]
        coeffs = positives.coeffs.split(positives.num_per_image)
        gts = positives.gt.split(positives.num_per_image)
        for basis, image_coeffs, gt in zip(prototypes, coeffs, gts, strict=True):
            if len(gt) > 0:
                rows = (image_coeffs, positives.masks[gt], positives.bboxes[gt] / self.mask_stride)
                total = total + self._sum_in_chunks(
                    lambda *row, basis=basis: self._image_term(basis, *row), rows, values_per_row
                )
        return self.loss_weight * total / max(sum(positives.num_per_image), 1)

    @staticmethod
    def _image_term(basis: Tensor, coeffs: Tensor, masks: Tensor, bboxes: Tensor) -> Tensor:
        """Basis (K, h, w), coefficients (n, K), masks (n, H, W), boxes (n, 4) in mask pixels: a scalar sum."""
        height, width = masks.shape[-2:]
        logits = (coeffs @ basis.flatten(1)).unflatten(1, basis.shape[1:])  # n x h x w
        if logits.shape[-2:] != masks.shape[-2:]:
            logits = functional.interpolate(
                logits[:, None], (height, width), mode='bilinear', align_corners=False
            )[:, 0]
        columns = torch.arange(width, device=bboxes.device)
        rows = torch.arange(height, device=bboxes.device)
        x1, y1, x2, y2 = bboxes[..., None].unbind(dim=1)
        in_columns = (columns >= x1) & (columns < x2)  # n x W
        in_rows = (rows >= y1) & (rows < y2)  # n x H
        area = (bboxes[:, 2:] - bboxes[:, :2]).prod(dim=1)
        weight = (in_rows / area[:, None])[:, :, None] * in_columns[:, None]
        return bce(logits, masks.float(), weight=weight, reduction='sum')


@MODELS.register_module()
class PointMaskLoss(MaskLoss):
    """Cross entropy at uniform random points of the ground-truth box, the same points for all its positives.

    Bilinear sampling commutes with the linear combination of prototypes, so prototypes are sampled first and
    combined afterwards: memory grows with the number of points, whatever the image size, and the targets keep
    the resolution of `mask_stride`. The mean over points equals the dense mean over the box in expectation.

    Args:
        loss_weight: factor of the term.
        num_points: points per ground-truth box.
        mask_stride: see `MaskLoss`; 1 keeps structures thinner than a prototype pixel.
        max_positives: see `MaskLoss`.
        max_chunk_values: see `MaskLoss`.
    """

    def __init__(
        self,
        loss_weight: float = 7.5,
        *,
        num_points: int = 512,
        mask_stride: int = 1,
        max_positives: int | None = None,
        max_chunk_values: int = 2**24,
    ) -> None:
        super().__init__(loss_weight, mask_stride, max_positives, max_chunk_values)
        if num_points < 1:
            raise ValueError(f'PointMaskLoss: got num_points={num_points}, expected at least 1.')
        self.num_points = num_points

    def forward(self, prototypes: Tensor, positives: MaskPositives) -> Tensor:
        """Prototypes (B, K, h, w) and the positives to a scalar; 0 with a gradient where there are none."""
        num_positives = sum(positives.num_per_image)
        if num_positives == 0:
            return 0 * (prototypes.sum() + positives.coeffs.sum())
        masks = positives.masks
        size = masks.new_tensor(masks.shape[:0:-1], dtype=torch.float32) * self.mask_stride
        points = self._draw(positives.bboxes) / size  # M x S x 2, in [0, 1] of the input
        targets = _sample_nearest(masks, points)  # M x S
        bases = _sample_prototypes(prototypes, points, positives.gts_per_image)  # M x K x S
        coeffs, used = _slot_by_truth(positives, len(masks))  # M x P x K, M x P
        total = self._sum_in_chunks(
            self._truth_term, (coeffs, used, bases, targets), self.num_points * used.shape[1]
        )
        return self.loss_weight * total / (self.num_points * num_positives)

    @staticmethod
    def _truth_term(coeffs: Tensor, used: Tensor, bases: Tensor, targets: Tensor) -> Tensor:
        """Coefficients (m, P, K), used slots (m, P), bases (m, K, S), targets (m, S): a scalar sum."""
        logits = torch.bmm(coeffs, bases)
        targets = targets[:, None].expand_as(logits)
        return bce(logits, targets, weight=used[..., None], reduction='sum')

    def _draw(self, bboxes: Tensor) -> Tensor:
        """Uniform points of boxes (M, 4): (M, S, 2)."""
        share = torch.rand(len(bboxes), self.num_points, 2, device=bboxes.device)
        return torch.lerp(bboxes[:, None, :2], bboxes[:, None, 2:], share)


def _sample_nearest(masks: Tensor, points: Tensor) -> Tensor:
    """Values of masks (M, h, w) at points (M, S, 2) in [0, 1] (x, y): (M, S) float32."""
    height, width = masks.shape[-2:]
    column = (points[..., 0] * width).long().clamp(0, width - 1)
    row = (points[..., 1] * height).long().clamp(0, height - 1)
    return masks.flatten(1).gather(1, row * width + column).float()


def _sample_prototypes(prototypes: Tensor, points: Tensor, gts_per_image: list[int]) -> Tensor:
    """Bilinear values of each image's prototypes at its ground truths' points: (M, K, S)."""
    samples = [
        functional.grid_sample(
            basis[None], 2 * own[None] - 1, padding_mode='border', align_corners=False
        )[0].transpose(0, 1)  # K x m x S -> m x K x S
        for basis, own in zip(prototypes, points.split(gts_per_image), strict=True)
    ]
    return torch.cat(samples)


def _slot_by_truth(positives: MaskPositives, num_truths: int) -> tuple[Tensor, Tensor]:
    """Lay the coefficients of each ground truth's positives side by side.

    Returns:
        Coefficients (M, P, K), 0 in unused slots, and 1 for used slots (M, P), 0 for the others; P is the most
        positives of a ground truth.
    """
    slot = rank_within_group(positives.gt, torch.zeros_like(positives.gt))
    shape = (num_truths, int(slot.max()) + 1)
    coeffs = positives.coeffs.new_zeros(*shape, positives.coeffs.shape[1])
    used = coeffs.new_zeros(shape)
    coeffs = coeffs.index_put((positives.gt, slot), positives.coeffs)
    used[positives.gt, slot] = 1
    return coeffs, used
