"""Images through a semantic network: whole or in windows, several at a time, with the time that each part takes."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmext.apis.semantic_network import CheckedRows, Preparation, Prepared, SemanticNetwork
from mmext.apis.semantic_rows import BlendedRows, RowSource, ones, pyramid
from mmext.apis.semantic_windows import Slide
from mmext.apis.tiling import Window


@dataclass
class ImageOnWay:
    """An image that is being segmented.

    Attributes:
        index: the position among the inputs.
        path: the file; None for images in memory.
        pixels: (H, W, 3) uint8 BGR.
        pre: seconds for reading and preparing so far.
        net: seconds for the network so far.
        prepared: what the network sees of the whole image.
        logits: (1, C, h, w) of the whole image; the same memory as that of its rows.
    """

    index: int
    path: Path | None
    pixels: NDArray[np.uint8]
    pre: float = 0.0
    net: float = 0.0
    prepared: Prepared | None = None
    logits: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]


class Passes:
    """What brings images to logits.

    Args:
        network: the model.
        preparation: of images for it.
        slide: windows of prepared images, whose plain mean counts; None to pass them as they are.
        batch_size: of inputs that pass through the network together.
    """

    def __init__(
        self,
        network: SemanticNetwork,
        preparation: Preparation,
        slide: Slide | None,
        batch_size: int,
    ) -> None:
        self.network, self.preparation = network, preparation
        self.slide, self.batch_size = slide, batch_size

    def prepare(self, image: ImageOnWay, window: Window | None = None) -> Prepared:
        """What the network sees of an image, or of a window of it."""
        start = time.perf_counter()
        pixels = image.pixels
        if window is not None:
            pixels = np.ascontiguousarray(pixels[window.y1 : window.y2, window.x1 : window.x2])
        prepared = self.preparation.prepare(pixels)
        image.pre += time.perf_counter() - start
        return prepared

    def whole(self, images: Sequence[ImageOnWay]) -> list[RowSource]:
        """Logits of images, which are prepared, at their size; sets their `logits`."""
        prepared = [image.prepared for image in images if image.prepared is not None]
        for image in images:
            image.net = 0.0  # some may have passed in a batch that failed
        low: Sequence[RowSource]
        if self.slide is None:
            low = stored = self._logits(prepared, images)
            for image, own in zip(images, stored, strict=True):
                image.logits = own.logits
        else:
            low = [self._slid(*pair) for pair in zip(prepared, images, strict=True)]
        return self._place(low, prepared, [image.size for image in images])

    def blended(self, image: ImageOnWay, windows: Slide) -> RowSource:
        """Logits of an image that is cut into windows, at its size."""

        def make(own: Sequence[Window]) -> list[RowSource]:
            # Batch by batch: of a wide image the prepared windows of a whole row would take hundreds of MB.
            return [
                source
                for start in range(0, len(own), self.batch_size)
                for source in self._windowed(image, own[start : start + self.batch_size])
            ]

        return _blend(windows.windows(image.size), make, pyramid)

    def _windowed(self, image: ImageOnWay, windows: Sequence[Window]) -> list[RowSource]:
        """Logits of windows of an image at their own sizes."""
        prepared = [self.prepare(image, window) for window in windows]
        low: Sequence[RowSource]
        if self.slide is None:
            low = self._logits(prepared, [image] * len(windows))
        else:
            low = [self._slid(part, image) for part in prepared]
        sizes = [(window.y2 - window.y1, window.x2 - window.x1) for window in windows]
        return self._place(low, prepared, sizes)

    def _place(
        self,
        low: Sequence[RowSource],
        prepared: Sequence[Prepared],
        sizes: Sequence[tuple[int, int]],
    ) -> list[RowSource]:
        """Logits of prepared images or windows at their own sizes, (H, W)."""
        one_step = self.preparation.one_step and self.slide is None
        return [
            self.network.place(rows, own, size, one_step=one_step)
            for rows, own, size in zip(low, prepared, sizes, strict=True)
        ]

    def _slid(self, prepared: Prepared, image: ImageOnWay) -> RowSource:
        """Logits of an input that is cut into windows, at its size, as mmseg has it."""
        assert self.slide is not None
        inputs = prepared.inputs

        def make(windows: Sequence[Window]) -> list[RowSource]:
            sizes = [(window.y2 - window.y1, window.x2 - window.x1) for window in windows]
            parts = [
                Prepared(inputs[..., w.y1 : w.y2, w.x1 : w.x2], Window(0, 0, width, height))
                for w, (height, width) in zip(windows, sizes, strict=True)
            ]
            logits = self._logits(parts, [image] * len(parts))
            return [
                self.network.enlarge(own, size) for own, size in zip(logits, sizes, strict=True)
            ]

        return _blend(self.slide.windows((inputs.shape[2], inputs.shape[3])), make, ones)

    def _logits(
        self, prepared: Sequence[Prepared], images: Sequence[ImageOnWay]
    ) -> list[CheckedRows]:
        """Logits of each; those of one size pass through the network together, `batch_size` at most.

        Args:
            prepared: images or windows.
            images: to which each belongs.
        """
        inputs = [own.inputs for own in prepared]
        groups = defaultdict(list)
        for index, own in enumerate(inputs):
            groups[own.shape].append(index)
        found: dict[int, CheckedRows] = {}
        for members in groups.values():
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                forward = self.network.forward(torch.cat([inputs[index] for index in batch]))
                for index, logits in zip(batch, forward.logits, strict=True):
                    found[index] = CheckedRows(logits[None])
                    images[index].net += forward.seconds / len(batch)
        return [found[index] for index in range(len(inputs))]


def _blend(
    windows: Sequence[Window],
    make: Callable[[Sequence[Window]], Sequence[RowSource]],
    weigh: Callable[[int], Tensor],
) -> RowSource:
    """The windows as one; a single one is the whole."""
    return BlendedRows(windows, make, weigh) if len(windows) > 1 else make(windows)[0]
