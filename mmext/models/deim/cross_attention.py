"""Attention of queries to a few points around their boxes, without projections of the values and of the output.

Sources: Deformable DETR (https://arxiv.org/abs/2010.04159); D-FINE (https://arxiv.org/abs/2410.13842) for a number of
points that differs between the levels, and DEIMv2 (https://arxiv.org/abs/2509.20787) for leaving the projections out.
`mmcv.ops.MultiScaleDeformableAttention` has both projections and the same number of points everywhere.

Shape letters: B images, N queries, d channels, h heads, P points of a head over all levels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# Sampling points of a new layer spread over this part of the box.
_OFFSET_SCALE = 0.5


class DeformableCrossAttention(nn.Module):
    """Samples each level bilinearly at learned offsets from a query's box and sums with learned weights.

    Args:
        embed_dims: d, a multiple of `num_heads`.
        num_heads: h; head i sees the i-th part of the channels.
        num_points: points of a head on each level, finest first.
    """

    num_points_scale: Tensor

    def __init__(self, embed_dims: int, num_heads: int, num_points: Sequence[int]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_points = tuple(num_points)
        total = num_heads * sum(num_points)
        self.sampling_offsets = nn.Linear(embed_dims, 2 * total)
        self.attention_weights = nn.Linear(embed_dims, total)
        self.register_buffer(
            'num_points_scale', torch.cat([torch.full((n,), 1 / n) for n in num_points])
        )
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """Every head looks into a direction of its own, its points one step further out each; weights are equal."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions /= directions.abs().amax(dim=-1, keepdim=True)  # onto a square
        steps = torch.cat([torch.arange(1, n + 1) for n in self.num_points])
        self.sampling_offsets.bias.copy_((directions[:, None] * steps[:, None]).flatten())

    def forward(self, queries: Tensor, boxes: Tensor, value_maps: Sequence[Tensor]) -> Tensor:
        """Gather what the queries look at.

        Args:
            queries: (B, N, d).
            boxes: (B, N, 4) cxcywh in [0, 1]; a point may lie outside of its box and of the image, where values are 0.
            value_maps: (B h, d / h, H_l, W_l) float32 of each level, see `split_heads`.

        Returns:
            (B, N, d) in the dtype of `queries`.
        """
        offsets = self.sampling_offsets(queries).unflatten(-1, (self.num_heads, -1, 2))
        weights = self.attention_weights(queries).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        reach = self.num_points_scale[:, None] * boxes[:, :, None, None, 2:] * _OFFSET_SCALE
        locations = boxes[:, :, None, None, :2] + offsets * reach  # B x N x h x P x 2

        grids = (2 * locations - 1).float().transpose(1, 2).flatten(0, 1)  # Bh x N x P x 2
        samples = torch.cat(
            [
                functional.grid_sample(value_map, grid, align_corners=False)
                for value_map, grid in zip(
                    value_maps, grids.split(self.num_points, dim=2), strict=True
                )
            ],
            dim=-1,
        )  # Bh x d/h x N x P
        weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # Bh x 1 x N x P
        gathered = (samples * weights).sum(dim=-1)  # Bh x d/h x N
        gathered = gathered.view(len(queries), -1, gathered.shape[-1])  # B x d x N
        return gathered.transpose(1, 2).to(queries.dtype)


def split_heads(features: Sequence[Tensor], num_heads: int) -> list[Tensor]:
    """Feature maps (B, d, H_l, W_l) as the values of all layers, (B h, d / h, H_l, W_l) float32.

    Without a projection the values are the features themselves, and contiguous maps are not even copied. They are
    float32 because positions are: half precision would move a point by up to 0.04 cells on a map of 80 x 80.
    """
    return [x.float().reshape(-1, x.shape[1] // num_heads, *x.shape[2:]) for x in features]
