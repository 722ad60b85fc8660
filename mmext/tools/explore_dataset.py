"""Look at a data set of single objects: `explore_dataset.py TRAIN.csv [VAL.csv ...] --images DIR --out page.html`.

Prints sizes, channels, classes, boxes, bad rows, and mean and deviation of the channels over the images of the first file,
and writes all of it with plots and samples to one HTML page. Exit code 0, also with bad rows, which are counted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmext.datasets.exploration import BOX_MEASURES, Exploration, explore, load_photo
from mmext.datasets.localization_csv import LabelledImage
from mmext.datasets.report import MAX_SHOWN
from mmext.tools.command import add_traceback_argument, run_command
from mmext.tools.single_objects import TRUE_COLOR
from mmext.visualization.exploration_page import (
    html_images,
    html_page,
    html_table,
    html_text,
    plot_counts,
    plot_histograms,
    plot_scatter,
)
from mmext.visualization.instances import draw_instances

PERCENTILES = (0, 25, 50, 75, 100)
MAX_SIZES = 8


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog='explore_dataset', description=__doc__.splitlines()[0])
    parser.add_argument(
        'csv', type=Path, nargs='+', help='filename,xmin,ymin,xmax,ymax,class; training first'
    )
    parser.add_argument('--images', type=Path, required=True, help='folder of the images')
    parser.add_argument(
        '--out', type=Path, default=Path('exploration.html'), help='default: exploration.html'
    )
    parser.add_argument(
        '--classes', help='names, separated by commas; others are bad rows (default: any)'
    )
    parser.add_argument('--samples', type=int, default=24, help='photos to draw (default: 24)')
    parser.add_argument('--seed', type=int, default=0, help='of the choice of samples')
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def explore_files(args: argparse.Namespace) -> None:
    """Explores as the command line says.

    Raises:
        ValueError: a file cannot be used at all, or the folder does not exist.
    """
    if not args.images.is_dir():
        raise ValueError(f'--images {args.images} is no folder. Give that of the images.')
    classes = None if args.classes is None else [name.strip() for name in args.classes.split(',')]
    found = [explore(path, args.images, classes) for path in args.csv]
    print('\n'.join(describe(facts) for facts in found))
    sections = [
        (str(own.path), html_text(describe(own, max_shown=None)) + _plots(own)) for own in found
    ]
    sections.append(('Samples', _samples(found[0], args.samples, args.seed)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    page = html_page(f'Data of {args.csv[0]}', sections)
    args.out.write_text(page, encoding='utf-8')
    print(f'written: {args.out}')


def describe(facts: Exploration, max_shown: int | None = MAX_SHOWN) -> str:
    """The facts of one file as lines of text; `max_shown` bad rows of each kind, None for all."""
    lines = [f'{facts.path}: {facts.num_rows} rows, {len(facts.images)} good images']
    sizes = facts.sizes.most_common()
    lines += [f'  {width} x {height}: {number}' for (width, height), number in sizes[:MAX_SIZES]]
    if others := sizes[MAX_SIZES:]:
        lines.append(f'  {len(others)} other sizes: {sum(number for _, number in others)}')
    lines += [f'  channels {mode}: {number}' for mode, number in facts.modes.most_common()]
    lines += [f'  class {name}: {number}' for name, number in facts.classes.most_common()]
    measures = facts.boxes()
    if len(measures):
        lines.append('  boxes, shares of the image: ' + ' / '.join(f'{p} %' for p in PERCENTILES))
        for name, values in zip(BOX_MEASURES, measures.T, strict=True):
            numbers = ' / '.join(f'{value:.3f}' for value in np.percentile(values, PERCENTILES))
            lines.append(f'    {name:15s} {numbers}')
    for name, value in (('mean', facts.mean), ('std', facts.std)):
        lines.append(f'  {name} of R, G, B: ' + ', '.join(f'{number:.3f}' for number in value))
    lines.append(facts.report.text(max_shown))
    return '\n'.join(lines)


def _plots(facts: Exploration) -> str:
    measures = facts.boxes()
    if not len(measures):
        return '<p>No boxes.</p>'
    labels = np.array([image.row.category for image in facts.images if image.box is not None])
    points = {name: measures[labels == name][:, :2] for name in facts.classes}
    columns = dict(zip(BOX_MEASURES, measures.T, strict=True))
    rows = [(f'{w} x {h}', number) for (w, h), number in facts.sizes.most_common()]
    table = html_table(('size', 'images'), rows)
    return (
        plot_counts(dict(facts.classes.most_common()), 'images of each class')
        + plot_histograms(columns, 'boxes')
        + plot_scatter(points, 'boxes, shares of the image', ('width', 'height'))
        + f'<details><summary>{len(rows)} image sizes</summary>{table}</details>'
    )


def _samples(facts: Exploration, number: int, seed: int) -> str:
    """Photos drawn by lot, with their boxes."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(facts.images))[:number]
    return html_images([_drawn(facts.images[index]) for index in sorted(chosen)])


def _drawn(image: LabelledImage) -> tuple[np.ndarray, str]:
    """A photo with its box, (H, W, 3) uint8 BGR, and its name."""
    photo = load_photo(image)
    if image.box is None:
        return photo, image.row.filename
    boxes, names = np.array([image.box]), [image.row.category]
    drawn = draw_instances(photo, boxes, names=names, colors=[TRUE_COLOR])
    return drawn, f'{image.row.filename}: {image.row.category}'


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(explore_files, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
