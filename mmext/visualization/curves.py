"""Curves of a training run, read from the scalars that mmengine's `LocalVisBackend` writes."""

import json
from pathlib import Path

import matplotlib.figure

# Of all classes together, whatever the metric: those of each class would fill the picture with lines.
OVERALL = ('bbox_mAP_50', 'segm_mAP_50', 'boundary_mAP_50', 'IoU', 'accuracy', 'AP50')


def read_scalars(path: Path) -> list[dict]:
    """Rows of `vis_data/scalars.json`: one JSON object a line.

    Raises:
        ValueError: the file is missing, or a line but the last (which a killed run may leave cut) is no JSON.
    """
    if not path.is_file():
        raise ValueError(
            f'No log of scalars at {path}. Expected the scalars.json of a run; '
            "set vis_backends=[dict(type='LocalVisBackend')] in the config."
        )
    lines = path.read_text(encoding='utf-8').splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f'{path}, line {number} is no JSON: {error}') from error
    return rows


def plot_curves(scalars: Path, out_file: Path) -> None:
    """Draw losses, learning rate and metrics of one run into a PNG.

    Args:
        scalars: the run's `vis_data/scalars.json`.
        out_file: where the picture goes; folders are made.
    """
    rows = read_scalars(scalars)
    training = [row for row in rows if 'loss' in row]
    metrics = [row for row in rows if 'loss' not in row]
    figure = matplotlib.figure.Figure(figsize=(13, 4), layout='constrained')
    loss_axes, rate_axes, metric_axes = figure.subplots(1, 3)
    _plot(loss_axes, training, [key for key in _keys(training) if key.startswith('loss')], 'loss')
    _plot(rate_axes, training, [key for key in _keys(training) if key == 'lr'], 'learning rate')
    _plot(
        metric_axes,
        metrics,
        [key for key in _keys(metrics) if key.rpartition('/')[2] in OVERALL],
        'validation',
    )
    metric_axes.set_xlabel('epoch')
    out_file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_file, dpi=110)


def _keys(rows: list[dict]) -> list[str]:
    keys = {key for row in rows for key, value in row.items() if isinstance(value, int | float)}
    return sorted(keys - {'step', 'iter', 'epoch'})


def _plot(axes: 'matplotlib.axes.Axes', rows: list[dict], keys: list[str], title: str) -> None:
    for key in keys:
        points = [(row['step'], row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), label=key, marker='.' if len(points) < 50 else None)
    axes.set_title(title)
    axes.set_xlabel('step')
    axes.grid(alpha=0.3)
    if keys:
        axes.legend(fontsize=8)
