"""One HTML page about a data set, with its pictures inside: nothing else is needed to read it."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import cv2
import matplotlib.figure
import numpy as np

STYLE = (
    'body{font-family:sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}'
    'table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}'
    'img{max-width:100%}.samples img{height:190px;margin:2px}pre{white-space:pre-wrap}'
)


def html_page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A page from headings and their content, which is HTML already."""
    parts = [f'<h2>{html.escape(heading)}</h2>\n{content}' for heading, content in sections]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n'
        + '\n'.join(parts)
        + '\n</body></html>\n'
    )


def html_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of texts and numbers."""
    lines = [f'<tr>{"".join(f"<th>{html.escape(name)}</th>" for name in header)}</tr>']
    lines += [
        f'<tr>{"".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)}</tr>' for row in rows
    ]
    return f'<table>{"".join(lines)}</table>'


def html_text(text: str) -> str:
    """Text whose lines stay as they are."""
    return f'<pre>{html.escape(text)}</pre>'


def html_images(images: Sequence[tuple[np.ndarray, str]], longest: int = 320) -> str:
    """Pictures (H, W, 3) uint8 BGR with their names, shrunk to a longest side in pixels."""
    tags = []
    for image, name in images:
        ratio = min(longest / max(image.shape[:2]), 1.0)
        size = [max(round(side * ratio), 1) for side in image.shape[1::-1]]
        _, data = cv2.imencode('.jpg', cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        tags.append(_image_tag(data.tobytes(), 'jpeg', name))
    return f'<div class="samples">{"".join(tags)}</div>'


def plot_counts(counts: Mapping[str, int], title: str) -> str:
    """Bars, one a name."""
    figure = matplotlib.figure.Figure(figsize=(9, 0.4 * len(counts) + 1.2), layout='constrained')
    axes = figure.subplots()
    bars = axes.barh(list(counts), list(counts.values()))
    axes.bar_label(bars)
    axes.set_title(title)
    axes.invert_yaxis()
    return figure_tag(figure, title)


def plot_histograms(columns: Mapping[str, np.ndarray], title: str) -> str:
    """One histogram a name, side by side."""
    figure = matplotlib.figure.Figure(figsize=(11, 2.2), layout='constrained')
    for axes, (name, values) in zip(figure.subplots(1, len(columns)), columns.items(), strict=True):
        axes.hist(values, bins=30)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    return figure_tag(figure, title)


def plot_scatter(points: Mapping[str, np.ndarray], title: str, labels: tuple[str, str]) -> str:
    """Points (n, 2) of several names in their own colours."""
    figure = matplotlib.figure.Figure(figsize=(6, 4), layout='constrained')
    axes = figure.subplots()
    for name, own in points.items():
        axes.scatter(own[:, 0], own[:, 1], s=8, alpha=0.6, label=name)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title)
    if points:
        axes.legend(fontsize=8)
    return figure_tag(figure, title)


def figure_tag(figure: matplotlib.figure.Figure, name: str) -> str:
    """A figure as a picture in the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format='png')
    return _image_tag(buffer.getvalue(), 'png', name)


def _image_tag(data: bytes, kind: str, name: str) -> str:
    text, name = base64.b64encode(data).decode(), html.escape(name, quote=True)
    return f'<img src="data:image/{kind};base64,{text}" alt="{name}" title="{name}">'
