"""Arithmetic on boxes as plain tensors: formats, and overlaps that broadcast.

Boxes are xyxy in any one unit unless said otherwise. Shape letters: `...` any leading shape, broadcast against the
other argument.
"""

import math

import torch
from torch import Tensor

EPSILON = 1e-7
# For boxes in [0, 1], whose areas may be far below 1e-7; its square is still a normal float32 number, as the
# gradient of a quotient needs.
NORMALISED_EPSILON = 1e-16


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as centre and size to their corners; a negative size gives an inverted box."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Areas of boxes (..., 4) xyxy; an inverted box has area 0. Returns (...)."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def box_iou(boxes: Tensor, others: Tensor, *, eps: float = EPSILON) -> Tensor:
    """Intersection over union, element by element after broadcasting.

    Pass `boxes[:, None]` and `others[None]` for all pairs.

    Args:
        boxes: (..., 4) xyxy.
        others: (..., 4) xyxy.
        eps: added to the union. The default suits pixels; for boxes in [0, 1] take `NORMALISED_EPSILON`, since the
            union of small ones is no larger than 1e-4.

    Returns:
        (...) in [0, 1]; 0 where both boxes are empty.
    """
    intersection, union = _overlap(boxes, others)
    return intersection / (union + eps)


def generalized_iou(boxes: Tensor, others: Tensor, *, eps: float = EPSILON) -> Tensor:
    """Generalized IoU (Rezatofighi et al. 2019, arXiv:1902.09630), element by element after broadcasting.

    IoU - (hull - union) / hull, where the hull is the smallest box around both.

    Args:
        boxes: (..., 4) xyxy, not inverted.
        others: (..., 4) xyxy, not inverted.
        eps: as in `box_iou`, also added to the hull.

    Returns:
        (...) in [-1, 1].
    """
    intersection, union = _overlap(boxes, others)
    size = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(
        boxes[..., :2], others[..., :2]
    )
    hull = size[..., 0] * size[..., 1]
    return intersection / (union + eps) - (hull - union) / (hull + eps)


def complete_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Complete IoU (Zheng et al. 2020, arXiv:1911.08287), element by element after broadcasting.

    IoU - (centre distance)^2 / (diagonal of the hull)^2 - alpha * v, where v compares the aspect ratios.
    alpha = v / (1 - IoU + v) applies at every IoU and carries no gradient; mmdet's `CIoULoss` switches it on
    only above IoU 0.5, which is another loss.

    Args:
        boxes: (..., 4) xyxy.
        others: (..., 4) xyxy.

    Returns:
        (...) in (-1.5, 1].
    """
    iou = box_iou(boxes, others)
    hull = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(
        boxes[..., :2], others[..., :2]
    )
    offset = (boxes[..., :2] + boxes[..., 2:] - others[..., :2] - others[..., 2:]) / 2
    distance = offset.square().sum(dim=-1) / (hull.square().sum(dim=-1) + EPSILON)
    aspect = (4 / math.pi**2) * (_aspect_angle(boxes) - _aspect_angle(others)).square()
    with torch.no_grad():
        alpha = aspect / (1 - iou + aspect + EPSILON)
    return iou - distance - alpha * aspect


def _overlap(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of the intersection and the union of boxes (..., 4) xyxy. Each (...)."""
    top_left = torch.maximum(boxes[..., :2], others[..., :2])
    bottom_right = torch.minimum(boxes[..., 2:], others[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    return intersection, box_area(boxes) + box_area(others) - intersection


def _aspect_angle(boxes: Tensor) -> Tensor:
    """atan(width / height) of boxes (..., 4). Returns (...)."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(dim=-1)
    return torch.atan(width / (height + EPSILON))
