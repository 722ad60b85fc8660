"""Small token-wise networks of the DEIM transformer: RMS norm, SwiGLU, multi-layer perceptron.

Sources: RMSNorm (https://arxiv.org/abs/1910.07467), SwiGLU (https://arxiv.org/abs/2002.05202), as used by DEIMv2
(https://arxiv.org/abs/2509.20787). Children are called as in the published weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """Divides by the root mean square in float32, then scales: x / sqrt(mean(x^2) + 1e-6) * scale.

    `torch.nn.RMSNorm` calls its parameter `weight` and scales before it returns to half precision.

    Args:
        channels: size of the last dimension.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.rms_norm(x.float(), x.shape[-1:], eps=1e-6)
        return normed.to(x.dtype) * self.scale


class SwiGLU(nn.Module):
    """w3(SiLU(a) * b), where a and b are the halves of w12(x).

    Args:
        channels: of input and output.
        hidden_channels: of a and of b.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(channels, 2 * hidden_channels)
        self.w3 = nn.Linear(hidden_channels, channels)
        for linear in (self.w12, self.w3):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(functional.silu(gate) * value)


class MLP(nn.Module):
    """Linear layers with SiLU between them; those of D-FINE, which this network comes from, have ReLU.

    Args:
        channels: of the input, of every hidden layer, and of the output.
        starts_at_zero: whether the output of a new network is 0, whatever the input.
    """

    def __init__(self, *channels: int, starts_at_zero: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs)
            for inputs, outputs in zip(channels[:-1], channels[1:], strict=True)
        )
        if starts_at_zero:
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = functional.silu(layer(x))
        return last(x)
