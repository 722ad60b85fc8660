"""A plain convolutional network, trained from scratch: double convolutions and max-pooling.

Shape letters: B images, C channels.
"""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS


@MODELS.register_module()
class LocalizerCNN(BaseModule):
    """Blocks of two 3x3 convolutions with batch norm and ReLU, each followed by a max-pooling that halves the map.

    Four blocks of 32, 64, 128 and 256 channels end at a 16th of the input. Convolutions start from He's normal
    weights (arXiv:1502.01852), drawn by `init_weights` too, which mmengine calls before training.

    Args:
        channels: of each block.
        in_channels: of the image.
        out_indices: the blocks whose maps are returned, counted from 0, in this order.
        init_cfg: mmengine init config, None for what is said above.

    Raises:
        ValueError: an index has no block.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128, 256),
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (3,),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        strange = [index for index in out_indices if not 0 <= index < len(channels)]
        if strange or not out_indices:
            raise ValueError(
                f'LocalizerCNN: got out_indices={tuple(out_indices)}, expected some of 0 to {len(channels) - 1}, the '
                f'blocks of channels={tuple(channels)}'
            )
        self.out_indices = tuple(out_indices)
        widths = [in_channels, *channels]
        # A block behind the last that is asked for would get no gradient.
        used = max(out_indices) + 1
        self.blocks = nn.ModuleList(
            _double_conv(*pair) for pair in zip(widths[:used], widths[1 : used + 1], strict=True)
        )
        self._draw_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to the maps of `out_indices`; block i's is H / 2^(i + 1) high, rounded up."""
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return tuple(maps[index] for index in self.out_indices)

    def init_weights(self) -> None:
        """He-normal weights, and then what `init_cfg` says."""
        self._draw_weights()
        super().init_weights()

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        # Batch norm has the bias.
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU()]
    # Rounded up: an image of one pixel still has a cell at the end.
    return nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True))
