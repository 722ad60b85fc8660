"""Rotary position encoding of DINOv3 for patches of an image.

Sources: RoFormer (https://arxiv.org/abs/2104.09864), DINOv3 (https://arxiv.org/abs/2508.10104).

Shapes: N tokens (P prefix tokens first, then H x W patches row by row), D channels of a head.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_CHANNELS = 64
BASE = 100.0
# Sizes of input whose tables are kept, 0.8 MB each at 640 x 640.
MAX_CACHED_SIZES = 8


class RotaryTables(NamedTuple):
    """Factors of the rotary encoding: 1 and 0 for the prefix tokens.

    Attributes:
        cos: (N, 1, 1, D).
        sin: (N, 1, 1, D), its first half negated, as a rotation wants it.
        turns: (N, 1, 1, D / 2) complex, cos + i sin of every pair of channels.
    """

    cos: Tensor
    sin: Tensor
    turns: Tensor

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate channel k with channel k + D / 2; x and the result are (B, N, 2, h, D)."""
        swapped = x.roll(HEAD_CHANNELS // 2, dims=-1)
        return torch.addcmul(x * self.cos, swapped, self.sin).to(x.dtype)

    def rotate_pairs(self, x: Tensor) -> Tensor:
        """Rotate channel 2k with channel 2k + 1, in place where x is float32; x and the result are (B, N, 2, h, D).

        As complex numbers, which take a third of the time of `rotate` on a CPU.
        """
        pairs = x.float().unflatten(-1, (HEAD_CHANNELS // 2, 2))
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # exporters know real numbers
            (a, b), (cos, sin) = pairs.unbind(-1), torch.view_as_real(self.turns).unbind(-1)
            return (
                torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)
            )
        turned = torch.view_as_complex(pairs).mul_(self.turns)
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """Rotary encoding of the centres of the patches, y in the first quarter of a head, then x.

    Args:
        num_prefix_tokens: P, tokens without a position.
        max_rescale: In training the positions are multiplied by a factor between its inverse and
            this, evenly distributed in its logarithm and drawn anew for every block. None leaves
            them alone.
    """

    periods: Tensor

    def __init__(self, num_prefix_tokens: int, max_rescale: float | None) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.max_rescale = max_rescale
        # A buffer, since published weights may hold values rounded otherwise.
        exponents = torch.arange(HEAD_CHANNELS // 4) / (HEAD_CHANNELS // 4)
        self.register_buffer('periods', BASE**exponents)
        self._cache: dict[tuple[int, int, torch.device], RotaryTables] = {}

    def forward(self, height: int, width: int, num_blocks: int) -> list[RotaryTables]:
        """Tables of every block for `height` x `width` patches, in fp32 also under autocast."""
        if self.training and self.max_rescale is not None:
            log_rescale = math.log(self.max_rescale)
            scales = torch.empty(num_blocks, device=self.periods.device)
            scales = scales.uniform_(-log_rescale, log_rescale).exp()
            angles = self._angles(height, width)
            return [_tables(angles * scale) for scale in scales]
        key = (height, width, self.periods.device)
        tables = self._cache.get(key)
        if tables is None:
            if len(self._cache) >= MAX_CACHED_SIZES:
                self._cache.clear()
            # A tensor made in inference mode could not be used in a later pass with gradients.
            with torch.inference_mode(False):
                tables = _tables(self._angles(height, width))
            self._cache[key] = tables
        return [tables] * num_blocks

    def train(self, mode: bool = True) -> 'RotaryEmbedding':
        """Set the training mode; what is cached may come from other periods and is dropped."""
        self._cache.clear()
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._cache.clear()
        super()._load_from_state_dict(*args)

    def _angles(self, height: int, width: int) -> Tensor:
        """(N, D / 2) for centres in [-1, 1], each axis by itself; 0 for the prefix tokens."""
        periods = self.periods.float()
        rows, columns = (
            (torch.arange(n, device=periods.device) + 0.5) * (2 / n) - 1 for n in (height, width)
        )
        # H x W x 2 coordinates to H * W x 2 x D / 4 angles
        centres = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), dim=-1)
        angles = 2 * math.pi * centres.reshape(-1, 2, 1) / periods
        return F.pad(angles.flatten(1), (0, 0, self.num_prefix_tokens, 0))


def _tables(angles: Tensor) -> RotaryTables:
    """Tables of (N, D / 2) angles, which are the same for both halves of a head."""
    cos, sin = angles.cos(), angles.sin()
    tables = (
        torch.cat([cos, cos], dim=1),
        torch.cat([-sin, sin], dim=1),
        torch.complex(cos, sin),
    )
    return RotaryTables(*(table[:, None, None] for table in tables))


def interleave_halves(rows: Tensor) -> Tensor:
    """Rows of a projection, (h D, ...), in an order that puts channel k + D / 2 of each head right behind channel k."""
    heads = rows.unflatten(0, (-1, 2, HEAD_CHANNELS // 2))
    return heads.transpose(1, 2).flatten(0, 2)
