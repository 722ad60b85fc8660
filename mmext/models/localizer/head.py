"""The head of the mission: global average pooling, and a perceptron each for the class and the box.

Shape letters: B images, C channels, K classes.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmext.models.localizer.outputs import Localization, LocalizerTargets
from mmext.registry import MODELS

WIDTHS = (1024, 512, 256)
DROPOUTS = (0.5, 0.3, 0.0)


@MODELS.register_module()
class LocalizerHead(nn.Module):
    """Class and box from the mean of the last feature map.

    Each branch is Linear-BatchNorm-activation-Dropout of 1024, 512 and 256, SiLU in the class branch and ReLU in the box
    branch, and a last Linear. Where an object is cannot be told from a mean of features, only guessed from what the
    padding leaves in it: see `mmext.VoteHead` for a head that keeps the place.

    Args:
        in_channels: of the last feature map.
        num_classes: K.
        loss: config of `mmext.LocalizationLoss`, without `num_classes`.
        bounded: whether a sigmoid keeps the corners in [0, 1].
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, loss: dict[str, Any], bounded: bool = False
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.class_branch = _perceptron(in_channels, num_classes, nn.SiLU)
        self.box_branch = _perceptron(in_channels, 4, nn.ReLU)
        if bounded:
            self.box_branch.append(nn.Sigmoid())
        self.loss_fn = MODELS.build(dict(loss, num_classes=num_classes))

    def forward(self, feats: Sequence[Tensor]) -> Localization:
        """Feature maps, of which the last is used, (B, C, h, w); the boxes have their corners in order."""
        pooled = self.pool(feats[-1]).flatten(1)  # B x C
        if self.training and len(pooled) == 1:
            raise ValueError(
                'LocalizerHead: got a batch of one image in training, expected two or more, since batch norm needs '
                'them. Raise batch_size, or set drop_last=True in train_dataloader.'
            )
        # To the formulas of the IoU losses an inverted box can be better than a perfect one, and training finds it.
        corners = self.box_branch(pooled).unflatten(1, (2, 2)).sort(dim=1).values
        return Localization(self.class_branch(pooled), corners.flatten(1))

    def loss(self, outputs: Localization, targets: LocalizerTargets) -> dict[str, Tensor]:
        """See `LocalizationLoss.forward`."""
        return self.loss_fn(outputs, targets)


def _perceptron(in_channels: int, out_channels: int, activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, dropout in zip(WIDTHS, DROPOUTS, strict=True):
        layers += [nn.Linear(in_channels, width), nn.BatchNorm1d(width), activation()]
        layers += [nn.Dropout(dropout)] if dropout else []
        in_channels = width
    return nn.Sequential(*layers, nn.Linear(in_channels, out_channels))
