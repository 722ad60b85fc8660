"""Features of VGG16 (https://arxiv.org/abs/1409.1556) from a file of weights under torchvision's names, without torchvision."""

import torch
from torch import Tensor, nn

from mmext.models.common.weight_files import read_weight_file

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# Channels of the convolutions; 'pool' halves the size. The rest of VGG16 is not needed.
_LAYERS = (64, 64, 'pool', 128, 128, 'pool', 256, 256, 256)
# Indices of relu1_2, relu2_2 and relu3_3 in `vgg16().features`.
_FEATURE_INDICES = (3, 8, 15)


class VGGFeatures(nn.Module):
    """The activations relu1_2, relu2_2 and relu3_3. Its state has torchvision's names, `features.0.weight`, ..."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for entry in _LAYERS:
            if isinstance(entry, int):
                # Not in place: the activation before a pool is one of the features.
                layers += [nn.Conv2d(in_channels, entry, 3, padding=1), nn.ReLU()]
                in_channels = entry
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.register_buffer('mean', torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) RGB in [0, 1], H and W at least 4, to features of 64, 128 and 256 channels."""
        x = (images - self.mean) / self.std
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _FEATURE_INDICES:
                found.append(x)
        return found


def load_vgg_features(path: str) -> VGGFeatures:
    """Build the features and fill them.

    Args:
        path: a file of VGG16's weights under torchvision's names, such as `vgg16-397923af.pth`; what belongs to later
            layers is not read.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is no file of weights, or some are missing, of another shape or not finite.
    """
    # A config may be built on the meta device, where weights cannot be read.
    with torch.device('cpu'):
        network = VGGFeatures()
    found = read_weight_file(path).tensors
    expected = network.state_dict()
    faults = [
        f'{name} is {describe(found.get(name))}, expected {tuple(value.shape)}'
        for name, value in expected.items()
        if name not in found or found[name].shape != value.shape or not found[name].isfinite().all()
    ]
    if faults:
        raise ValueError(
            f'{path} is no file of VGG16 under the names of torchvision: {faults[0]} ({len(faults)} of '
            f'{len(expected)} entries are wrong)'
        )
    network.load_state_dict({name: found[name] for name in expected})
    return network


def describe(tensor: Tensor | None) -> str:
    """What is wrong with an entry, for the message."""
    if tensor is None:
        return 'missing'
    return f'{tuple(tensor.shape)}{"" if tensor.isfinite().all() else " and not finite"}'
