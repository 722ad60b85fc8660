"""Pictures of small tables of numbers between classes: counts, differences, similarities."""

from collections.abc import Sequence

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

# Beyond so many classes numbers in the cells could not be read.
MAX_NUMBERED = 20
# Where the colours of differences end at the earliest: one object more is not to look like a hundred.
_LEAST_DIFFERENCE = 5


def draw_counts(
    counts: NDArray[np.int64], names: Sequence[str], title: str
) -> matplotlib.figure.Figure:
    """A confusion matrix: numbers are counts, colours the share of the row.

    Args:
        counts: (N, N), rows are the truth.
        names: N of them.
        title: of the picture.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return _draw(shares, _numbers(counts, '{:d}'), names, title, 'Blues', (0.0, 1.0))


def draw_difference(
    difference: NDArray[np.int64], names: Sequence[str], title: str
) -> matplotlib.figure.Figure:
    """What has become more (red) or less (blue); numbers are left out where they are 0.

    Args:
        difference: (N, N), of counts.
        names: N of them.
        title: of the picture.
    """
    limit = max(float(np.abs(difference).max()), _LEAST_DIFFERENCE)
    return _draw(difference, _numbers(difference, '{:+d}'), names, title, 'RdBu_r', (-limit, limit))


def draw_similarities(
    values: NDArray[np.float64], names: Sequence[str], title: str
) -> matplotlib.figure.Figure:
    """Cosines (N, N) in [-1, 1]; NaN cells stay empty."""
    texts = np.array([['' if np.isnan(v) else f'{v:.2f}' for v in row] for row in values])
    return _draw(values, texts, names, title, 'RdBu_r', (-1.0, 1.0))


def _numbers(values: NDArray, form: str) -> NDArray:
    return np.array([[form.format(value) if value else '' for value in row] for row in values])


def _draw(
    values: NDArray,
    texts: NDArray,
    names: Sequence[str],
    title: str,
    colours: str,
    limits: tuple[float, float],
) -> matplotlib.figure.Figure:
    is_numbered = len(names) <= MAX_NUMBERED
    side = max((0.62 if is_numbered else 0.16) * len(names), 2.0) + 1.6
    figure = matplotlib.figure.Figure(figsize=(side + 0.8, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    figure.colorbar(image, ax=axes, shrink=0.7)
    size = 8 if is_numbered else 5
    axes.set_xticks(
        range(len(names)), names, rotation=60, ha='right', fontsize=size, parse_math=False
    )
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.set_title(title, fontsize=10)
    if is_numbered:
        for (row, column), text in np.ndenumerate(texts):
            share = (values[row, column] - limits[0]) / (limits[1] - limits[0])
            # White on what is dark: the end of Blues, both ends of RdBu.
            is_dark = share > 0.6 if limits[0] == 0 else abs(share - 0.5) > 0.35
            colour = 'white' if is_dark else 'black'
            axes.text(column, row, text, ha='center', va='center', color=colour, fontsize=8)
    return figure
