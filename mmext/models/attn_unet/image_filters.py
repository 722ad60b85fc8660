"""Filters on maps of one channel: Sobel gradients, erosion, Laplacian pyramid. Borders repeat the outermost pixel.

Shape letters: N images, H W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional

_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
_BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)


def sobel(maps: Tensor) -> Tensor:
    """Horizontal and vertical slope, per pixel: the kernels are divided by 8.

    Zeros beyond the border would invent an edge all around a bright image.

    Args:
        maps: (N, 1, H, W).

    Returns:
        (N, 2, H, W), along the columns and along the rows.
    """
    columns = maps.new_tensor(_SOBEL) / 8
    kernels = torch.stack([columns, columns.T])[:, None]  # 2 x 1 x 3 x 3
    return functional.conv2d(functional.pad(maps, (1, 1, 1, 1), mode='replicate'), kernels)


def erode(valid: Tensor) -> Tensor:
    """1 where the whole 3 x 3 neighbourhood, as far as it lies in the image, is 1. (N, 1, H, W) in {0, 1}."""
    return 1 - functional.max_pool2d(1 - valid, 3, stride=1, padding=1)


def blur(maps: Tensor) -> Tensor:
    """Binomial filter of 5 x 5 pixels on (N, 1, H, W)."""
    row = maps.new_tensor(_BINOMIAL) / 16
    kernel = row[:, None] * row
    padded = functional.pad(maps, (2, 2, 2, 2), mode='replicate')
    return functional.conv2d(padded, kernel[None, None])


def laplacian_pyramid(maps: Tensor, num_levels: int) -> list[Tensor]:
    """Details of every second, fourth, ... size, and the blurred remainder last (Burt and Adelson, 1983).

    Args:
        maps: (N, 1, H, W).
        num_levels: at least 1.

    Returns:
        `num_levels` maps of which each has half the size of the one before, rounded up.
    """
    levels = []
    for _ in range(num_levels - 1):
        small = blur(maps)[..., ::2, ::2]
        levels.append(maps - _enlarge(small, maps))
        maps = small
    return [*levels, maps]


def _enlarge(small: Tensor, like: Tensor) -> Tensor:
    """Spread every second pixel over its neighbours; the weights sum to 1 at the border too."""
    spread, marks = torch.zeros_like(like), torch.zeros_like(like[:1])
    spread[..., ::2, ::2] = small
    marks[..., ::2, ::2] = 1
    return blur(spread) / blur(marks)
