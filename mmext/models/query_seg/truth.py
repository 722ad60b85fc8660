"""What the losses compare with.

Shape letters: C classes, G objects of an image.
"""

from typing import NamedTuple

from torch import Tensor


class ImageTruth(NamedTuple):
    """Objects of an image; for semantic segmentation the classes that it has.

    Attributes:
        labels: (G,) int64 in [0, C).
        masks: (G, H, W) bool, of the network input's size, one byte a pixel.
    """

    labels: Tensor
    masks: Tensor
