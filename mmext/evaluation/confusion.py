"""A confusion matrix as a table (CSV) and as a picture."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib.axes
import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

# Beyond so many classes numbers in the cells could not be read.
MAX_NUMBERED = 20


def write_confusion_csv(
    path: str | Path, confusion: NDArray[np.int64], classes: Sequence[str]
) -> None:
    """Write the pixels of each true class (line) by predicted class (column).

    Raises:
        OSError: the file cannot be written.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['true class', *classes])
        for name, row in zip(classes, confusion.tolist(), strict=True):
            writer.writerow([name, *row])


def draw_confusion(path: str | Path, confusion: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draw the matrix as PNG: the colour is the share of the true class (row), the numbers are share and pixels.

    Args:
        path: of the file; its folder is made.
        confusion: (K, K) pixels, rows are the truth.
        classes: K names.

    Raises:
        OSError: the file cannot be written.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    is_numbered = len(classes) <= MAX_NUMBERED
    figure, axes = _axes(classes, cell=0.95 if is_numbered else 0.16)
    image = axes.imshow(shares, cmap='Blues', vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label='share of the true class', shrink=0.8)
    axes.set_xlabel('predicted class')
    axes.set_ylabel('true class, pixels')
    if is_numbered:
        totals = [short_count(int(total)) for total in confusion.sum(axis=1)]
        rows = [f'{name}\n{total}' for name, total in zip(classes, totals, strict=True)]
        axes.set_yticks(range(len(classes)), rows)
        for (row, column), pixels in np.ndenumerate(confusion):
            if pixels:
                share = shares[row, column]
                text = f'{share:.1%}\n{short_count(int(pixels))}'
                colour = 'white' if share > 0.5 else 'black'
                axes.text(column, row, text, ha='center', va='center', color=colour, fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _axes(
    classes: Sequence[str], cell: float
) -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
    """A figure with the names at both sides of a square of cells of so many inches.

    The room for the names is reckoned: matplotlib's own layout takes seconds for a hundred of them.
    """
    size = 10 if cell > 0.5 else 5
    room = 0.6 + 0.65 * size / 72 * max(len(name) for name in classes)
    side = max(cell * len(classes), 2.5)
    width, height = room + 1.25 * side + 0.8, room + side + 0.2
    figure = matplotlib.figure.Figure(figsize=(width, height))
    # Wider than high by the colour bar.
    axes = figure.add_axes((room / width, room / height, 1.25 * side / width, side / height))
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=60, ha='right', rotation_mode='anchor', fontsize=size)
    axes.set_yticks(ticks, classes, fontsize=size)
    return figure, axes


def short_count(pixels: int) -> str:
    """A number of pixels in at most five characters."""
    for limit, unit in ((10**9, 'G'), (10**6, 'M'), (10**3, 'k')):
        if pixels >= limit:
            return f'{pixels / limit:.3g}{unit}'
    return str(pixels)
