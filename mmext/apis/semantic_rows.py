"""Class maps of large photos from small logits: the enlarged logits of a few rows are there at a time.

150 classes on 12 million pixels are 7 GB of logits. Bilinear resizing makes any rows by themselves, so sources of rows are
put behind each other (stored logits, resized, cropped, blended from windows) and asked for a piece after the other. The
pieces equal the same rows of the whole, bit for bit.

Shape letters: C logits of a pixel, H x W the map of a source, R rows of it. Tensors are (1, C, R, W), channels last,
which halves the time of resizing and of the choice of a class.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mmext.apis.tiling import Window

# Logits of one piece, 16 MB.
CHUNK_VALUES = 2**22
# Label maps of up to this many classes are uint8; 255 stays free for "no class".
MAX_BYTE_CLASSES = 255


class RowSource(Protocol):
    """Logits that are made when they are asked for.

    Attributes:
        size: (H, W).
    """

    size: tuple[int, int]

    def rows(self, top: int, bottom: int) -> Tensor:
        """(1, C, bottom - top, W): rows from `top` to the one before `bottom`, not to be written into.

        Both ends never go back from one call to the next: what lies above may be gone.
        """


class StoredRows:
    """Logits in memory.

    Args:
        logits: (1, C, H, W).

    Attributes:
        logits: the same, channels last.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.contiguous(memory_format=torch.channels_last)
        self.size = (logits.shape[2], logits.shape[3])

    def rows(self, top: int, bottom: int) -> Tensor:
        """See `RowSource`."""
        return self.logits[:, :, top:bottom]


class CroppedRows:
    """A part of another source.

    Args:
        source: the other.
        window: the part.
    """

    def __init__(self, source: RowSource, window: Window) -> None:
        self._source, self._window = source, window
        self.size = (window.y2 - window.y1, window.x2 - window.x1)

    def rows(self, top: int, bottom: int) -> Tensor:
        """See `RowSource`."""
        window = self._window
        rows = self._source.rows(top + window.y1, bottom + window.y1)
        return rows[..., window.x1 : window.x2]


class ResizedRows:
    """Another source at another size, bilinear as `torch.nn.functional.interpolate` does it.

    Args:
        source: the other.
        size: (H, W) to become.
        align_corners: as in `interpolate`.
    """

    def __init__(
        self, source: RowSource, size: tuple[int, int], *, align_corners: bool = False
    ) -> None:
        self._source, self._align = source, align_corners
        self.size = size
        above, self._share = _positions(source.size[0], size[0], align_corners)
        self._above = above.tolist()
        self._last = source.size[0] - 1

    def rows(self, top: int, bottom: int) -> Tensor:
        """See `RowSource`."""
        if self.size == self._source.size:
            return self._source.rows(top, bottom)
        first = self._above[top]
        stop = min(self._above[bottom - 1] + 1, self._last) + 1
        low = self._source.rows(first, stop)
        above = torch.tensor(self._above[top:bottom], device=low.device) - first
        below = (above + 1).clamp(max=stop - first - 1)
        share = self._share[top:bottom].to(low).view(1, 1, -1, 1)
        tall = low.index_select(2, above) * (1 - share) + low.index_select(2, below) * share
        tall = tall.contiguous(memory_format=torch.channels_last)
        # Rows are at their places: from here on only columns are resized.
        return functional.interpolate(
            tall, (bottom - top, self.size[1]), mode='bilinear', align_corners=self._align
        )


class BlendedRows:
    """A weighted mean of windows that overlap. A window is made when its first row is asked for, and forgotten behind its last.

    Args:
        windows: that cover the map: a full grid, row by row, from top to bottom.
        make: called with the windows of one row of the grid; gives a source of its own size for each.
        weigh: length of a window -> (length,), the weights of its pixels in one direction, above 0.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        make: Callable[[Sequence[Window]], Sequence[RowSource]],
        weigh: Callable[[int], Tensor],
    ) -> None:
        self.size = (max(w.y2 for w in windows), max(w.x2 for w in windows))
        self._make, self._weigh = make, weigh
        bands: dict[tuple[int, int], list[Window]] = {}
        for window in windows:
            bands.setdefault((window.y1, window.y2), []).append(window)
        self._waiting = list(bands.values())
        self._held: list[list[tuple[Window, RowSource]]] = []
        # The grid is a product: so is the sum of weights at a pixel.
        self._row_weights = self._total(list(bands), self.size[0])
        columns = {(window.x1, window.x2) for window in windows}
        self._column_weights = self._total(sorted(columns), self.size[1])

    def rows(self, top: int, bottom: int) -> Tensor:
        """See `RowSource`."""
        self._hold(top, bottom)
        total = None
        for window, source in (pair for band in self._held for pair in band):
            start, stop = max(top, window.y1), min(bottom, window.y2)
            if start >= stop:
                continue
            part = source.rows(start - window.y1, stop - window.y1)
            if total is None:
                shape = (1, part.shape[1], bottom - top, self.size[1])
                total = part.new_zeros(shape).to(memory_format=torch.channels_last)
            own = self._weigh(window.y2 - window.y1)[start - window.y1 : stop - window.y1, None]
            own = (own * self._weigh(window.x2 - window.x1)).to(part)
            total[..., start - top : stop - top, window.x1 : window.x2] += part * own
        assert total is not None, 'the windows leave a gap'
        weights = self._row_weights[top:bottom, None] * self._column_weights
        return total / weights.to(total)

    def _hold(self, top: int, bottom: int) -> None:
        self._held = [band for band in self._held if band[0][0].y2 > top]
        while self._waiting and self._waiting[0][0].y1 < bottom:
            windows = self._waiting.pop(0)
            self._held.append(list(zip(windows, self._make(windows), strict=True)))

    def _total(self, spans: Sequence[tuple[int, int]], length: int) -> Tensor:
        total = torch.zeros(length)
        for start, stop in spans:
            total[start:stop] += self._weigh(stop - start)
        return total


class Decision(NamedTuple):
    """The class of every pixel.

    Attributes:
        class_map: (H, W) uint8, or uint16 of more than 255 classes.
        confidence: (H, W) float32 in [0, 1], the probability of that class; None if it was not wanted.
    """

    class_map: NDArray[np.uint8 | np.uint16]
    confidence: NDArray[np.float32] | None


def decide(
    source: RowSource,
    num_logits: int,
    *,
    threshold: float | None = None,
    with_confidence: bool = False,
    chunk_values: int = CHUNK_VALUES,
) -> Decision:
    """The best class of every pixel, a few rows at a time.

    Args:
        source: of the photo's size.
        num_logits: C.
        threshold: of the probability of the foreground, for one logit; None for a half.
        with_confidence: whether to give probabilities.
        chunk_values: logits of a piece, of the photo's size.
    """
    height, width = source.size
    label_type = np.uint8 if num_logits <= MAX_BYTE_CLASSES else np.uint16
    class_map = np.empty((height, width), label_type)
    confidence = np.empty((height, width), np.float32) if with_confidence else None
    step = max(1, chunk_values // (num_logits * width))
    for top in range(0, height, step):
        bottom = min(top + step, height)
        logits = source.rows(top, bottom)[0]  # C x R x W
        if num_logits == 1:
            labels, sure = _decide_two(logits[0], 0.5 if threshold is None else threshold)
        else:
            labels, sure = _decide_many(logits, with_confidence)
        class_map[top:bottom] = labels.cpu().numpy()
        if confidence is not None:
            confidence[top:bottom] = sure.cpu().numpy()
    return Decision(class_map, confidence)


def ones(length: int) -> Tensor:
    """Weights of a plain mean, mmseg's."""
    return torch.ones(length)


def pyramid(length: int) -> Tensor:
    """Weights that fall from the middle to the edges, where a network sees half of the surroundings only."""
    steps = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(steps, steps.flip(0)) * (2 / (length + 1))


def _decide_two(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Of (R, W) logits of the foreground: labels and their probability."""
    probability = logits.sigmoid()
    labels = probability > threshold
    return labels, torch.where(labels, probability, 1 - probability)


def _decide_many(logits: Tensor, with_probability: bool) -> tuple[Tensor, Tensor]:
    """Of (C, R, W) logits: labels, and their probability or, if that is not wanted, the logit."""
    best, labels = logits.max(dim=0)
    return labels, (best - logits.logsumexp(dim=0)).exp() if with_probability else best


def _positions(length: int, wanted: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """For each wanted row, the row of the source above it and the share of the one below, both (wanted,).

    In float32, as torch counts.
    """
    index = torch.arange(wanted, dtype=torch.float32)
    if align_corners:
        scale = torch.tensor(float(length - 1)) / max(wanted - 1, 1)
        position = index * scale
    else:
        scale = torch.tensor(float(length)) / wanted
        position = ((index + 0.5) * scale - 0.5).clamp(min=0)
    above = position.long().clamp(max=length - 1)
    return above, position - above
