"""Boxes as distributions over the offsets of their four edges, and the quality that a distribution's shape tells.

Sources: D-FINE (https://arxiv.org/abs/2410.13842, sections 4.1 and A) for the refined distributions and the
non-uniform bins, Generalized Focal Loss v2 (https://arxiv.org/abs/2011.12885) for the quality estimate.

Shape letters: B images, N queries, R + 1 bins; s is the scale of the bins: an edge at distance d (left, top, right
or bottom of the centre) lies (s / 2 + d) / s box sizes from it, so that d = 0 is the reference box's own edge.
"""

import torch
from torch import Tensor, nn

from mmext.models.deim.perceptrons import MLP

# W(s) reaches from -2 UP s to 2 UP s, its inner bins from -UP s to UP s.
UP = 0.5
_NUM_PEAKS = 4


def make_bin_values(num_bins: int, reg_scale: float) -> Tensor:
    """W(s): what each bin stands for, dense around 0 and sparse at the ends.

    Args:
        num_bins: R + 1, odd: 0 in the middle, a geometric sequence to both sides, one far value at each end.
        reg_scale: s > 0.

    Returns:
        (R + 1,) float32, increasing and odd around the middle: -s, -s / 2, ..., 0, ..., s / 2, s.
    """
    reach = UP * reg_scale
    num_steps = (num_bins - 3) // 2
    step = (reach + 1) ** (1 / num_steps)
    positive = [step**power - 1 for power in range(1, num_steps + 1)] + [2 * reach]
    return torch.tensor([-value for value in reversed(positive)] + [0.0] + positive)


def decode_boxes(refs: Tensor, corners: Tensor, bin_values: Tensor, reg_scale: float) -> Tensor:
    """Boxes whose edges lie at the expected distances from the edges of the reference boxes.

    The mean of x1 = cx - (s / 2 + l) w / s and x2 = cx + (s / 2 + r) w / s is the new centre, their difference the
    new width; the same holds for y with top and bottom.

    Args:
        refs: (B, N, 4) cxcywh.
        corners: (B, N, 4 (R + 1)) logits of the edges left, top, right, bottom.
        bin_values: (R + 1,).
        reg_scale: s.

    Returns:
        (B, N, 4) cxcywh float32, not clipped; a size is negative where the edges have passed each other.
    """
    # In float32 and without a matrix product, which autocast would round to half precision.
    probability = corners.unflatten(-1, (4, -1)).softmax(dim=-1, dtype=torch.float32)
    top_left, bottom_right = (probability * bin_values).sum(dim=-1).split(2, dim=-1)
    centres, sizes = refs.split(2, dim=-1)
    return torch.cat(
        [
            centres + sizes * (bottom_right - top_left) / (2 * reg_scale),
            sizes * (1 + (top_left + bottom_right) / reg_scale),
        ],
        dim=-1,
    )


class QualityEstimate(nn.Module):
    """One number per box from the peaks of its distributions, added to the logits of all classes.

    Args:
        hidden_channels: of the perceptron between the peaks and the number.
    """

    def __init__(self, hidden_channels: int = 64) -> None:
        super().__init__()
        self.reg_conf = MLP(4 * (_NUM_PEAKS + 1), hidden_channels, 1, starts_at_zero=True)

    def forward(self, corners: Tensor) -> Tensor:
        """Corner logits (B, N, 4 (R + 1)) to (B, N, 1): the four highest bins of each edge and their mean."""
        probability = corners.unflatten(-1, (4, -1)).softmax(dim=-1)
        peaks = probability.topk(_NUM_PEAKS, dim=-1).values
        shape = torch.cat([peaks, peaks.mean(dim=-1, keepdim=True)], dim=-1)
        return self.reg_conf(shape.flatten(-2).to(corners.dtype))
