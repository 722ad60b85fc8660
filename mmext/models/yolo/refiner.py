"""Mask refinement: what prototypes are too coarse for is corrected inside each box, from the features of the image.

The residual starts at zero, so a fresh refiner changes nothing.

Shape letters: N objects, K prototypes, D channels of the context, h w the size of the prototypes, R cells of a side of
a region.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.layers import ConvNormAct
from mmext.registry import MODELS


class RoiInputs(NamedTuple):
    """What the refiner sees of each object, at the centres of R x R equal cells of its region.

    Attributes:
        coarse: (N, R, R) logits that coefficients and prototypes make.
        context: (N, D, R, R).
    """

    coarse: Tensor
    context: Tensor


@MODELS.register_module()
class MaskRefiner(nn.Module):
    """Corrects coarse mask logits inside regions: 3x3 convolutions on coarse logit and context, then 1x1 to a delta.

    The context is computed once per image, the rest per object. The convolutions have no normalisation: statistics
    over a few regions of one image would differ from step to step.

    Args:
        in_channels: channels of the embedding that the prototypes are made of.
        context_channels: D.
        hidden_channels: channels of the 3x3 convolutions.
        num_convs: how many of them.
        train_size: R in training.
        test_size: R for predictions.
        expansion: how much longer and wider than the box its region is, as a part of the box's sides, half of it at
            either end.
        norm_cfg: normalisation of the context.
        act_cfg: activation of all convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        norm_cfg: dict | None,
        act_cfg: dict | None,
        context_channels: int = 32,
        hidden_channels: int = 64,
        num_convs: int = 3,
        train_size: int = 28,
        test_size: int = 56,
        expansion: float = 0.1,
    ) -> None:
        super().__init__()
        self.train_size = train_size
        self.test_size = test_size
        self.expansion = expansion
        self.context = ConvNormAct(
            in_channels, context_channels, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        layer: dict[str, Any] = dict(norm_cfg=None, act_cfg=act_cfg)
        widths = [context_channels + 1] + [hidden_channels] * num_convs
        self.convs = nn.Sequential(
            *(ConvNormAct(width, hidden_channels, kernel_size=3, **layer) for width in widths[:-1])
        )
        self.delta = nn.Conv2d(hidden_channels, 1, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """Keep the variance through the convolutions that nothing normalises; start the delta at zero."""
        for layer in self.convs.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')
                nn.init.zeros_(layer.get_parameter('bias'))
        for parameter in self.delta.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: RoiInputs) -> Tensor:
        """The delta of each object: (N, R, R). The coarse logits are read, not trained through this path."""
        x = torch.cat([inputs.coarse.detach()[:, None], inputs.context], dim=1)
        # Few channels on small maps: on a CPU, that takes half the time with the channels last.
        x = x.contiguous(memory_format=torch.channels_last)
        return self.delta(self.convs(x))[:, 0]

    def predict(
        self,
        coeffs: Tensor,
        prototypes: Tensor,
        context: Tensor,
        *,
        regions: Tensor,
        input_size: tuple[int, int],
        max_chunk_cells: int = 2**15,
    ) -> Tensor:
        """Deltas of the objects of one image.

        Args:
            coeffs: (N, K).
            prototypes: (K, h, w).
            context: (D, h, w).
            regions: (N, 4) xyxy in pixels of the network input.
            input_size: its (height, width).
            max_chunk_cells: cells of regions whose activations are held at a time, at least those of one object.

        Returns:
            (N, test_size, test_size).
        """
        size = self.test_size
        deltas = coeffs.new_zeros(len(coeffs), size, size)
        step = max(1, max_chunk_cells // size**2)
        for start in range(0, len(coeffs), step):
            own = slice(start, start + step)
            inputs = sample_regions(
                coeffs[own], prototypes, context, regions[own], size, input_size
            )
            deltas[own] = self(inputs)
        return deltas


def expand_boxes(bboxes: Tensor, expansion: float) -> Tensor:
    """Boxes (N, 4) xyxy about their centres, longer by a part of their sides; at least a pixel long and wide."""
    centre = (bboxes[:, :2] + bboxes[:, 2:]) / 2
    half = ((bboxes[:, 2:] - bboxes[:, :2]) * (1 + expansion) / 2).clamp(min=0.5)
    return torch.cat([centre - half, centre + half], dim=1)


def cell_centres(regions: Tensor, size: int) -> Tensor:
    """Centres (x, y) of size x size equal cells of regions (N, 4) xyxy: (N, size, size, 2), rows first."""
    share = (torch.arange(size, device=regions.device) + 0.5) / size
    x, y = (
        torch.lerp(regions[:, axis, None], regions[:, axis + 2, None], share) for axis in (0, 1)
    )
    shape = (len(regions), size, size)
    return torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], dim=-1)


def sample_regions(
    coeffs: Tensor,
    prototypes: Tensor,
    context: Tensor,
    regions: Tensor,
    size: int,
    input_size: tuple[int, int],
) -> RoiInputs:
    """Bilinear values of one image's coarse logits and context in regions.

    Args:
        coeffs: (N, K).
        prototypes: (K, h, w), spanning the network input.
        context: (D, h, w).
        regions: (N, 4) xyxy in pixels of the network input. Outside of it the values of its edge are seen.
        size: R.
        input_size: (height, width) of the network input.
    """
    height, width = input_size
    points = cell_centres(regions, size)
    grid = points * (2 / points.new_tensor([width, height])) - 1  # N x R x R x 2, in [-1, 1]
    logits = torch.einsum('nk,khw->nhw', coeffs, prototypes)[:, None]
    coarse = functional.grid_sample(logits, grid, padding_mode='border', align_corners=False)
    # One image, one call: the regions lie below each other in a single grid.
    features = functional.grid_sample(
        context[None], grid.flatten(0, 1)[None], padding_mode='border', align_corners=False
    )
    return RoiInputs(coarse[:, 0], features[0].unflatten(1, (-1, size)).transpose(0, 1))
