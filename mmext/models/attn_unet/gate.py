"""Additive attention gates: the coarser decoder map says where a skip connection is worth listening to.

Source: Attention U-Net (https://arxiv.org/abs/1804.03999) and the public 3-D network of its authors, in two dimensions.

Shapes: N batch, Cx channels of the skip connection x, H x W its size; Cg channels of the gating map g, h x w its size,
about H/2 x W/2; F = max(Cx // 2, 1) channels between them.
"""

import math
from typing import Any, NamedTuple

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn import functional

from mmext.registry import MODELS

NORM_CFG: dict[str, Any] = dict(type='BN')


class Gated(NamedTuple):
    """What a gate makes of a skip connection.

    Attributes:
        features: (N, Cx, H, W), the skip connection with each pixel weighted.
        attention: (N, 1, H, W) in (0, 1), the weights.
    """

    features: Tensor
    attention: Tensor


@MODELS.register_module()
class AttentionGate(nn.Module):
    """Gate on the grid of the coarser map: what the public code of the authors does.

    The skip connection is reduced to half of its size by a 2x2 convolution, compared with g there, and the weights are
    enlarged again. Where H or W is odd, g is resized to floor(H/2) x floor(W/2).

    Args:
        skip_channels: Cx.
        gate_channels: Cg.
        transform_output: Whether the weighted features pass a 1x1 convolution and a norm (W in the paper).
        combine: Whether they pass another 1x1 convolution, a norm and a ReLU, as in the public network.
        psi_bias_init: Where the bias of the weights starts: 0 for weights of 1/2, 3 for gates that are open.
        norm_cfg: Config of the norms. Of GN, `num_groups` is an upper bound; see `fitting_norm`.
    """

    def __init__(
        self,
        skip_channels: int,
        gate_channels: int,
        *,
        transform_output: bool = True,
        combine: bool = False,
        psi_bias_init: float = 0.0,
        norm_cfg: dict[str, Any] = NORM_CFG,
    ) -> None:
        super().__init__()
        hidden_channels = max(skip_channels // 2, 1)
        self.theta = nn.Conv2d(skip_channels, hidden_channels, 2, stride=2, bias=False)
        self.phi = nn.Conv2d(gate_channels, hidden_channels, 1)
        self.psi = nn.Conv2d(hidden_channels, 1, 1)
        nn.init.constant_(self.psi.get_parameter('bias'), psi_bias_init)
        layers: list[nn.Module] = []
        if transform_output:
            layers.append(_conv_norm(skip_channels, skip_channels, norm_cfg))
        if combine:
            layers += [_conv_norm(skip_channels, skip_channels, norm_cfg), nn.ReLU(inplace=True)]
        self.output = nn.Sequential(*layers)

    def forward(self, skip: Tensor, gating: Tensor) -> Gated:
        """Weigh the skip connection (N, Cx, H, W), H and W at least 2, by g (N, Cg, h, w)."""
        theta = self.theta(skip)
        # A no-op where the sizes are the same, as they are for images whose sides are multiples of 32.
        phi = _resize(self.phi(gating), theta.shape[2:])
        coefficients = self.psi(functional.relu(theta + phi)).sigmoid()
        attention = _resize(coefficients, skip.shape[2:])
        return Gated(self.output(attention * skip), attention)


@MODELS.register_module()
class SameSizeAttentionGate(nn.Module):
    """Gate at the size of the skip connection: g is enlarged first, and all three convolutions have norms.

    The form of most later implementations: four times the arithmetic of `AttentionGate` in the comparison, none behind
    it.

    Args:
        skip_channels: Cx.
        gate_channels: Cg.
        psi_bias_init: Where the bias of the weights starts: 0 for weights of 1/2, 3 for gates that are open.
        norm_cfg: Config of the norms. Of GN, `num_groups` is an upper bound; see `fitting_norm`.
    """

    def __init__(
        self,
        skip_channels: int,
        gate_channels: int,
        *,
        psi_bias_init: float = 0.0,
        norm_cfg: dict[str, Any] = NORM_CFG,
    ) -> None:
        super().__init__()
        hidden_channels = max(skip_channels // 2, 1)
        self.theta = _conv_norm(skip_channels, hidden_channels, norm_cfg)
        self.phi = _conv_norm(gate_channels, hidden_channels, norm_cfg)
        self.psi = _conv_norm(hidden_channels, 1, norm_cfg)
        # The norm takes the bias of the convolution away and has its own.
        nn.init.constant_(self.psi[1].get_parameter('bias'), psi_bias_init)

    def forward(self, skip: Tensor, gating: Tensor) -> Gated:
        """Weigh the skip connection (N, Cx, H, W) by g (N, Cg, h, w)."""
        phi = self.phi(_resize(gating, skip.shape[2:]))
        attention = self.psi(functional.relu(self.theta(skip) + phi)).sigmoid()
        return Gated(attention * skip, attention)


def fitting_norm(norm_cfg: dict[str, Any], channels: int) -> dict[str, Any]:
    """A norm config for so many channels: GN(32) cannot divide 16 channels, and takes 16 groups there."""
    if norm_cfg['type'] != 'GN':
        return norm_cfg
    return dict(norm_cfg, num_groups=math.gcd(norm_cfg['num_groups'], channels))


def _conv_norm(in_channels: int, out_channels: int, norm_cfg: dict[str, Any]) -> nn.Sequential:
    """1x1 convolution and norm; its bias is idle before a batch norm, but the published network has it."""
    norm = build_norm_layer(fitting_norm(norm_cfg, out_channels), out_channels)[1]
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), norm)


def _resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if x.shape[2:] == size:
        return x
    return functional.interpolate(x, size=size, mode='bilinear', align_corners=False)
