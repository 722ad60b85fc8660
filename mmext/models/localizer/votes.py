"""Votes for one box: every cell of a map says how far away the edges are, and attention says who is heard.

Shape letters: B images, S cells of a map of h x w, R bins of the distribution of a distance. Lengths are shares of the
width or the height of the network input; boxes are xyxy in these.
"""

import torch
from torch import Tensor

from mmext.models.common.distribution import distribution_focal_loss
from mmext.structures.boxes import NORMALISED_EPSILON, generalized_iou

# Shorter boxes are given this length where something is divided by it.
SHORTEST = 1e-4


def cell_centres(height: int, width: int, device: torch.device) -> Tensor:
    """Centres (x, y) of the cells of a map, row by row: (S, 2) in (0, 1)."""
    ys = (torch.arange(height, device=device) + 0.5) / height
    xs = (torch.arange(width, device=device) + 0.5) / width
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing='ij')
    return torch.stack([grid_x, grid_y], dim=-1).flatten(0, 1)


def decode_votes(edge_logits: Tensor, centres: Tensor, reach: float) -> Tensor:
    """The box that every cell votes for: the means of its four distances, laid off from its centre.

    Args:
        edge_logits: (B, S, 4, R), of the distances to the left, top, right and bottom edge; bin r stands for
            r / (R - 1) * reach.
        centres: (S, 2).
        reach: the largest distance.

    Returns:
        (B, S, 4) float32, never inverted since no distance is negative.
    """
    bins = torch.linspace(0, reach, edge_logits.shape[-1], device=edge_logits.device)
    # In float32 and without a matrix product, which autocast would round to half precision.
    distances = (edge_logits.softmax(dim=-1, dtype=torch.float32) * bins).sum(dim=-1)
    top_left, bottom_right = distances.split(2, dim=-1)
    return torch.cat([centres - top_left, centres + bottom_right], dim=-1)


def nearness(boxes: Tensor, centres: Tensor, sigma: float) -> Tensor:
    """How near the cells are to the centres of boxes: a bell curve as wide and high as the box, times sigma.

    Args:
        boxes: (B, 4).
        centres: (S, 2).
        sigma: standard deviation, in sizes of the box.

    Returns:
        (B, S), each row sums to 1, also where the box is smaller than a cell.
    """
    middles, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offsets = (centres - middles[:, None]) / (sigma * sizes.clamp(min=SHORTEST))[:, None]
    return (-offsets.square().sum(dim=-1) / 2).softmax(dim=1)


def attention_loss(attention_logits: Tensor, shares: Tensor) -> Tensor:
    """Cross entropy of the attention with the shares that it should give the cells, the mean of B images.

    Args:
        attention_logits: (B, S), before the softmax over the cells.
        shares: (B, S), sum to 1.
    """
    return -(shares * attention_logits.float().log_softmax(dim=1)).sum(dim=1).mean()


def vote_loss(votes: Tensor, boxes: Tensor, shares: Tensor) -> Tensor:
    """1 - GIoU of the votes, the mean of B images.

    Args:
        votes: (B, S, 4).
        boxes: (B, 4), true.
        shares: (B, S), what each cell counts; sum to 1.
    """
    loss = 1 - generalized_iou(votes, boxes[:, None], eps=NORMALISED_EPSILON)  # B x S
    return (shares * loss).sum(dim=1).mean()


def edge_loss(
    edge_logits: Tensor, centres: Tensor, boxes: Tensor, shares: Tensor, *, reach: float
) -> Tensor:
    """Focal loss of the distributions of the distances, the mean of four edges and B images.

    Args:
        edge_logits: (B, S, 4, R).
        centres: (S, 2), of the cells.
        boxes: (B, 4), true. Distances from outside the box or beyond `reach` are clamped.
        shares: (B, S), what each cell counts; sum to 1.
        reach: the largest distance.
    """
    corners = boxes[:, None]  # B x 1 x 4
    distances = torch.cat([centres - corners[..., :2], corners[..., 2:] - centres], dim=-1)
    in_bins = distances * (edge_logits.shape[-1] - 1) / reach  # B x S x 4
    loss = distribution_focal_loss(edge_logits.float(), in_bins).mean(dim=-1)
    return (shares * loss).sum(dim=1).mean()
