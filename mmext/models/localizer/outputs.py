"""What the heads of the localizer give and learn from, as plain tensors.

Shape letters: B images, K classes. Boxes are xyxy, 1 being the width and the height of the network input.
"""

from typing import NamedTuple

from torch import Tensor


class Localization(NamedTuple):
    """The object of every image.

    Attributes:
        class_logits: (B, K).
        boxes: (B, 4) xyxy, x1 <= x2 and y1 <= y2; they may reach beyond [0, 1].
    """

    class_logits: Tensor
    boxes: Tensor


class LocalizerTargets(NamedTuple):
    """The true object of every image.

    Attributes:
        boxes: (B, 4) xyxy float32; any numbers where there is no object.
        labels: (B,) int64 in [0, K); likewise.
        known: (B,) bool, False for an image without an object, from which nothing is learnt.
    """

    boxes: Tensor
    labels: Tensor
    known: Tensor
