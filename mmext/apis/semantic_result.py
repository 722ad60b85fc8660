"""What a semantic network says about one image, and how it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmext.apis.rows import CHUNK_PIXELS, row_chunks
from mmext.apis.timing import Seconds
from mmext.visualization.semantic import (
    Paint,
    class_palette,
    draw_overlay,
    legend_rows,
    outline_classes,
    paint_classes,
)

STYLES: dict[str, Paint] = {'fill': paint_classes, 'outline': outline_classes}


@dataclass
class Segmentation:
    """The class of every pixel of an image.

    Attributes:
        class_map: (H, W) uint8 at the size of the image; uint16 of more than 255 classes.
        classes: K names by label.
        palette: (K, 3) uint8 RGB.
        image: (H, W, 3) uint8 BGR, as it was loaded.
        index: the position among the inputs.
        path: the file; None for images in memory.
        seconds: the time it took; of a batch, its share. `net` is the forward pass.
        logits: (C, h, w) float32, of the network's input with its padding at the resolution of the head (or of the
            input, see `SemanticNetwork.forward`), if they were to be kept.
        confidence: (H, W) float32, the probability of the class of each pixel, if it was to be kept.
    """

    class_map: NDArray[np.uint8 | np.uint16]
    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    image: NDArray[np.uint8]
    index: int = 0
    path: Path | None = None
    seconds: Seconds = field(default_factory=Seconds)
    logits: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None

    @property
    def forward_ms(self) -> float:
        """Milliseconds of the forward pass, for this image; the device had finished at both ends."""
        return 1e3 * self.seconds.net

    def shares(self) -> NDArray[np.float64]:
        """(K,): the part of the pixels that each class has."""
        height, width = self.class_map.shape
        counts = np.zeros(len(self.classes), np.int64)
        # Counting takes 8 bytes for each pixel.
        for top, bottom in row_chunks(0, height, width, CHUNK_PIXELS):
            labels = self.class_map[top:bottom].ravel()
            counts += np.bincount(labels, minlength=len(self.classes))
        return counts / self.class_map.size

    def overlay(self, style: str = 'fill') -> NDArray[np.uint8]:
        """The photo, its classes in their colours, and a legend with the share of each.

        Args:
            style: 'fill' for colours over the photo, 'outline' for lines around the regions.

        Returns:
            (at least H, more than W, 3) uint8 RGB.

        Raises:
            ValueError: another style.
        """
        if style not in STYLES:
            raise ValueError(f'style: got {style!r}, expected one of {", ".join(STYLES)}')
        rows = legend_rows(self.classes, self.palette, self.shares())
        photo = cv2.cvtColor(self.image, cv2.COLOR_BGR2RGB).astype(np.uint8)
        return draw_overlay(photo, self.class_map, rows, self.palette, STYLES[style])


def describe_classes(
    meta: Mapping[str, Any], num_logits: int
) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """A name and an RGB colour, (K, 3), for every label.

    Args:
        meta: `classes` and `palette` of the data set, where they are known.
        num_logits: of the network; 1 stands for two classes.

    Raises:
        ValueError: another number of names, or colours of another kind.
    """
    given, palette = meta.get('classes'), meta.get('palette')
    names = class_names(given, num_logits)
    if not given or len(given) == len(names):
        return names, class_palette(palette, len(names))
    # The only class keeps its colour; the background, which stands in front of it, gets one that is far from it.
    return names, class_palette(class_palette(palette, 1), 2)[::-1].copy()


def class_names(classes: Sequence[str] | None, num_logits: int) -> tuple[str, ...]:
    """A name for every label.

    Args:
        classes: as the data set has them; None for 'class 0' and so on.
        num_logits: of the network; 1 stands for two classes.

    Raises:
        ValueError: another number of names.
    """
    expected = max(num_logits, 2)
    names = tuple(classes or (f'class {label}' for label in range(expected)))
    if num_logits == 1 and len(names) == 1:
        names = ('background', *names)
    if len(names) != expected:
        raise ValueError(
            f'got {len(names)} class names and a network of {expected} classes, expected as many; set '
            "metainfo=dict(classes=(...)) in the config's test_dataloader.dataset"
        )
    return names
