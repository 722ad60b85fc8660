"""Which places of an image answer to which class: what queries say, painted where their boxes are.

Shape letters: Q queries, K classes, (h, w) a grid over the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import matplotlib
import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

# Opacity of the surest place. Less would hide the colours, more the photo.
OPACITY = 0.75
# Cells of the longer side: hundreds of large boxes on a photo of 12 megapixels would take a minute.
GRID = 256
# Places that are nearly transparent shall not choose the range of the colours.
_SEEN = 0.25
_COLUMNS = 4


class HeatMaps(NamedTuple):
    """What the queries say at each cell.

    Attributes:
        values: (K, h, w), the weighted mean of the values of all queries whose box covers the middle of the cell; NaN where
            there is none.
        cover: (h, w), the highest weight of those queries, 0 where there is none.
    """

    values: NDArray[np.float64]
    cover: NDArray[np.float64]


def heat_maps(
    boxes: NDArray, weights: NDArray, values: NDArray, shape: tuple[int, int]
) -> HeatMaps:
    """Paint values of queries into their boxes.

    Args:
        boxes: (Q, 4) xyxy in cells; they may reach beyond the grid. Inverted ones and those that are not finite cover nothing.
        weights: (Q,), at least 0.
        values: (Q, K).
        shape: (h, w).
    """
    height, width = shape
    total, cover = np.zeros(shape), np.zeros(shape)
    sums = np.zeros((values.shape[1], *shape))
    for box, weight, own in zip(boxes, weights, values, strict=True):
        if not np.isfinite(box).all():
            continue
        # The middle of cell i is at i + 0.5.
        first = np.ceil(box - 0.5).clip(0, [width, height, width, height]).astype(int)
        left, top, right, bottom = first.tolist()
        window = np.s_[top:bottom, left:right]
        total[window] += weight
        sums[:, top:bottom, left:right] += weight * own[:, None, None]
        cover[window] = np.maximum(cover[window], weight)
    with np.errstate(invalid='ignore', divide='ignore'):
        return HeatMaps(np.where(total > 0, sums / total, np.nan), cover)


def grid_shape(image_shape: tuple[int, int], longest: int = GRID) -> tuple[int, int]:
    """(h, w) of a grid over an image of that (h, w), which is no finer than its pixels."""
    ratio = min(longest / max(image_shape), 1.0)
    return max(round(image_shape[0] * ratio), 1), max(round(image_shape[1] * ratio), 1)


def draw_heat_maps(
    photo: NDArray[np.uint8],
    annotated: NDArray[np.uint8],
    maps: HeatMaps,
    names: Sequence[str],
    title: str,
) -> matplotlib.figure.Figure:
    """The annotated photo, and the photo under the map of each class.

    The colours show by how much a class is above (red) or below (blue) the mean of all classes at the place, on one scale for
    all classes of the photo; with a single class they show its values. A place is the more opaque, the surer the queries are.

    Args:
        photo: (H, W, 3) RGB.
        annotated: the same with its objects.
        maps: of K classes, on any grid.
        names: K of them.
        title: of the picture.
    """
    values = _relative(maps.values)
    limit = _limit(values, maps.cover)
    columns = min(_COLUMNS, len(names) + 1)
    rows = -(-(len(names) + 1) // columns)
    ratio = photo.shape[0] / photo.shape[1]
    size = (2.8 * columns + 0.9, (2.8 * ratio + 0.35) * rows + 0.4)
    figure = matplotlib.figure.Figure(figsize=size, layout='constrained')
    figure.suptitle(title, fontsize=10, parse_math=False)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.axis('off')
    panels.flat[0].imshow(annotated)
    panels.flat[0].set_title('truth', fontsize=9)
    for axes, name, own in zip(panels.flat[1:], names, values, strict=False):
        axes.imshow(_blend(photo, own / limit, maps.cover))
        axes.set_title(name, fontsize=9, parse_math=False)
    scale = matplotlib.cm.ScalarMappable(
        matplotlib.colors.Normalize(-limit, limit), matplotlib.colormaps['RdBu_r']
    )
    label = 'cosine' if len(names) == 1 else 'cosine, above the mean of the sentences'
    figure.colorbar(scale, ax=panels, shrink=0.8, label=label)
    return figure


def _relative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values if len(values) == 1 else values - values.mean(axis=0)


def _limit(values: NDArray[np.float64], cover: NDArray[np.float64]) -> float:
    """Where the colours end: the largest value of places that can be seen, more than 0."""
    seen = np.abs(values[:, (cover >= _SEEN * cover.max()) & (cover > 0)])
    return max(float(np.nanmax(seen)), 1e-6) if seen.size else 1.0


def _blend(photo: NDArray[np.uint8], values: NDArray, cover: NDArray) -> NDArray[np.uint8]:
    """The photo under the colours of values (h, w) in [-1, 1]."""
    colours = matplotlib.colormaps['RdBu_r']((np.nan_to_num(values).clip(-1, 1) + 1) / 2)[..., :3]
    opacity = OPACITY * cover / max(float(cover.max()), 1e-12)
    layers = np.dstack([255 * colours * opacity[..., None], 1 - opacity])
    sized = cv2.resize(layers, photo.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return (photo * sized[..., 3:] + sized[..., :3]).round().astype(np.uint8)
