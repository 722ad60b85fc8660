"""LPIPS (Zhang et al., CVPR 2018, https://arxiv.org/abs/1801.03924) with AlexNet, from local files of weights.

The packages that offer it take AlexNet from torchvision and download its weights; here both files are given.
"""

import pickle
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

# Channels, kernel, stride, padding of the convolutions, and whether a pool comes before: AlexNet of torchvision.
_LAYERS = (
    (64, 11, 4, 2, False),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, True),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, False),
)
# The places of the convolutions in torchvision's `alexnet().features`.
_CONV_INDICES = (0, 3, 6, 8, 10)
# Of the published LPIPS, for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
# Two pools and a stride of 4 leave nothing of smaller images.
MIN_SIDE = 32


class LPIPS(nn.Module):
    """Perceptual distance of two images, 0 for equal ones.

    Args:
        backbone: file of AlexNet's weights under torchvision's names, such as `alexnet-owt-7be5be79.pth`.
        linear: file of the weights of its channels, `alex.pth` of the package lpips (torchmetrics ships it too).

    Raises:
        ValueError: a file is missing or holds something else.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, *, backbone: str, linear: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        channels = 3
        for out_channels, kernel, stride, padding, _ in _LAYERS:
            self.convs.append(nn.Conv2d(channels, out_channels, kernel, stride, padding))
            channels = out_channels
        self.weights = nn.ParameterList(torch.zeros(layer[0]) for layer in _LAYERS)
        self.register_buffer('shift', torch.tensor(_SHIFT).view(3, 1, 1))
        self.register_buffer('scale', torch.tensor(_SCALE).view(3, 1, 1))
        found, linear_found = _read(backbone), _read(linear)
        with torch.no_grad():
            for layer, (index, conv) in enumerate(zip(_CONV_INDICES, self.convs, strict=True)):
                for name in ('weight', 'bias'):
                    _fill(getattr(conv, name), found, f'features.{index}.{name}', backbone)
                _fill(self.weights[layer], linear_found, f'lin{layer}.model.1.weight', linear)
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Images (N, 3, H, W) RGB in [0, 1] and others of their shape, sides of at least 32, to (N,) distances."""
        total = images.new_zeros(len(images))
        own, other = (((2 * x - 1) - self.shift) / self.scale for x in (images, others))
        for layer, weight, (*_, pooled) in zip(self.convs, self.weights, _LAYERS, strict=True):
            own, other = (_step(layer, x, pooled) for x in (own, other))
            distance = (_unit(own) - _unit(other)) ** 2  # N x C x h x w
            total = total + torch.einsum('nchw,c->nhw', distance, weight).mean(dim=(1, 2))
        return total

    def of_cut_outs(
        self, image: NDArray[np.uint8], prediction: NDArray[np.float32], truth: NDArray[np.float32]
    ) -> float:
        """Distance of a photo cut out with two alphas, on mid-grey.

        Args:
            image: (H, W, 3) RGB.
            prediction: (H, W) in [0, 1].
            truth: (H, W) in [0, 1].
        """
        photo = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255
        views = [0.5 + (photo - 0.5) * torch.from_numpy(alpha) for alpha in (prediction, truth)]
        missing = [max(0, MIN_SIDE - side) for side in photo.shape[-2:]]
        views = [functional.pad(own, (0, missing[1], 0, missing[0]), value=0.5) for own in views]
        return float(self(*views))


def _step(conv: nn.Module, x: Tensor, pooled: bool) -> Tensor:
    return functional.relu(conv(functional.max_pool2d(x, 3, 2) if pooled else x))


def _unit(features: Tensor) -> Tensor:
    """Scale the channels of each pixel to length 1."""
    return features / (features.norm(dim=1, keepdim=True) + 1e-8)


def _read(path: str) -> Mapping[str, Tensor]:
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition('\n')[0]
        raise ValueError(
            f'LPIPS: {path} cannot be read ({reason}). Give a file of weights, or leave LPIPS out.'
        ) from error


def _fill(parameter: Tensor, found: Mapping[str, Tensor], name: str, path: str) -> None:
    tensor = found.get(name) if isinstance(found, Mapping) else None
    if tensor is None or tensor.numel() != parameter.numel():
        got = 'none' if tensor is None else tuple(tensor.shape)
        raise ValueError(
            f'LPIPS: {path}: got {got} for the entry {name}, expected {tuple(parameter.shape)}. Give the weights of '
            "AlexNet under torchvision's names, and lpips's alex.pth."
        )
    parameter.copy_(tensor.reshape(parameter.shape))
