"""`predict` for semantic models: overlays with a legend, class maps, the share of every class, and timings."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, DefaultScope
from mmseg.models.segmentors import EncoderDecoder
from tqdm import tqdm

from mmext.apis.cutout_jobs import Job, plan_jobs
from mmext.apis.image_inputs import find_images, relative_names
from mmext.apis.photo_files import save_png, write_png
from mmext.apis.semantic import SemanticSegmenter
from mmext.apis.semantic_presets import PRESETS
from mmext.apis.semantic_result import STYLES, Segmentation
from mmext.apis.semantic_windows import Slide
from mmext.apis.tiling import Tiling
from mmext.apis.timing import Seconds, time_table
from mmext.tools.command import check_checkpoint
from mmext.tools.failures import Failures
from mmext.visualization.semantic import class_picture

# Arguments of `predict` that are for objects, with their values where they are not given.
FOR_OBJECTS: dict[str, Any] = dict(
    score_thr=None, truth=None, images=None, skip_bad=False, whole=False
)
FOR_CLASSES: dict[str, Any] = dict(preset=None, style=None)


def add_semantic_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `predict` for semantic models."""
    parser.add_argument(
        '--preset',
        metavar='NAME',
        help=f'semantic models: how photos are prepared, {", ".join(PRESETS)}; default: as the config says',
    )
    parser.add_argument(
        '--style',
        choices=STYLES,
        help='semantic models: colours over the photo (default), or lines around the regions',
    )


def is_semantic(cfg: Config) -> bool:
    """Whether the model of a config says the class of every pixel. A type that nobody knows is none."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')):
        kind = cfg.model.get('type')
        with MODELS.switch_scope_and_registry(cfg.model.get('_scope_')) as registry:
            kind = registry.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, EncoderDecoder)


def check_arguments(args: argparse.Namespace, *, semantic: bool) -> None:
    """Refuses arguments that say nothing to a model of this kind.

    Raises:
        ValueError: there are some.
    """
    if semantic and args.tta:
        raise ValueError(
            f'got --tta, which predict has for objects only, and {args.config}, which is semantic. Leave it out; '
            'tools/test.py --tta scores with the views of a config.'
        )
    others = FOR_OBJECTS if semantic else FOR_CLASSES
    given = [name for name, default in others.items() if getattr(args, name) != default]
    if given:
        options = ', '.join(f'--{name.replace("_", "-")}' for name in given)
        wanted, got = ('finds objects', 'is semantic')[:: 1 if semantic else -1]
        raise ValueError(
            f'got {options}, expected a model that {wanted}: the one of {args.config} {got}'
        )


def predict_semantic(args: argparse.Namespace, cfg: Config, tiling: Tiling | None) -> None:
    """Segments as the command line says.

    Args:
        args: of `predict`; `--out` has been looked at.
        cfg: of the model, with the options of the command line.
        tiling: of the command line.

    Raises:
        ValueError: a wrong argument, before anything is predicted; photos that could not be, at the end.
        FileNotFoundError: the checkpoint does not exist.
    """
    results, table = result_files(args)
    photos = find_images(args.inputs)
    names = dict(zip(photos, relative_names(photos), strict=True))
    jobs = {job.source: job for job in plan_jobs(photos, args.out, ('overlay', 'classes'))}
    check_checkpoint(args.checkpoint)
    segmenter = SemanticSegmenter(
        cfg,
        args.checkpoint,
        get_device(),
        preset=args.preset,
        batch_size=args.batch_size,
        windows=None if tiling is None else _slide(tiling),
    )
    run = SemanticRun(segmenter.classes)
    with tqdm(total=len(photos), unit='photo', disable=not sys.stderr.isatty()) as bar:
        for result in segmenter(photos, on_error=run.failures.add):
            assert result.path is not None
            run.add(result, names[result.path])
            if not args.no_pictures:
                write_pictures(result, jobs[result.path], args.style or 'fill')
            bar.update(result.index + 1 - bar.n)
    print(run.table())
    run.write(results, table)
    print(f'written: {results}\nwritten: {table}')
    if not args.no_pictures:
        print(f'pictures: {args.out / "overlay"}, {args.out / "classes"}')
    faults = run.failures.faults(len(photos))
    if faults:
        raise ValueError(*faults)


def result_files(args: argparse.Namespace) -> tuple[Path, Path]:
    """Where the results go, as JSON and, by default beside it, as CSV.

    Raises:
        ValueError: both are one file.
    """
    results = args.json or args.out / 'results.json'
    table = args.csv or results.with_suffix('.csv')
    if results.resolve() == table.resolve():
        raise ValueError(
            f'--json {results}: got the name of the CSV with the shares, expected another; they are two files'
        )
    return results, table


def write_pictures(result: Segmentation, job: Job, style: str) -> None:
    """Write the overlay and the class map of one photo as PNG.

    Raises:
        OSError: a file cannot be written.
    """
    write_png(job.targets['overlay'], result.overlay(style))
    save_png(job.targets['classes'], class_picture(result.class_map, result.palette))


class SemanticRun:
    """What a run has found so far.

    Args:
        classes: names by label.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        # In a table two classes of one name would be one.
        self.classes = [
            name if list(classes).count(name) == 1 else f'{name} ({label})'
            for label, name in enumerate(classes)
        ]
        self.photos: list[dict[str, Any]] = []
        self.shares: list[np.ndarray] = []
        self.seconds: list[Seconds] = []
        self.failures = Failures()

    def add(self, result: Segmentation, name: str) -> None:
        """Take the shares and the time of one photo."""
        height, width = result.class_map.shape
        self.photos.append(
            dict(file_name=name, height=height, width=width, forward_ms=result.forward_ms)
        )
        self.shares.append(result.shares())
        self.seconds.append(result.seconds)

    def write(self, path: Path, table: Path) -> None:
        """Write the results as JSON and as CSV.

        JSON: `classes`, a list, and `photos`, a list of `file_name`, `height`, `width`, `forward_ms`, `ms` (of reading
        and preparing, network, and all behind it) and `shares` (of the pixels, by class name, without those that have
        none). CSV: a row for each photo, a column for each class.
        """
        for file in (path, table):
            file.parent.mkdir(parents=True, exist_ok=True)
        photos = [
            photo
            | dict(
                ms={name: 1e3 * value for name, value in seconds._asdict().items()},
                shares={
                    name: float(share)
                    for name, share in zip(self.classes, own, strict=True)
                    if share
                },
            )
            for photo, own, seconds in zip(self.photos, self.shares, self.seconds, strict=True)
        ]
        content = dict(classes=self.classes, photos=photos, failures=self.failures.messages)
        path.write_text(json.dumps(content, indent=1), encoding='utf-8')
        with table.open('w', newline='', encoding='utf-8') as stream:
            writer = csv.writer(stream)
            writer.writerow(['filename', 'width', 'height', 'forward_ms', *self.classes])
            for photo, own in zip(self.photos, self.shares, strict=True):
                start = [photo['file_name'], photo['width'], photo['height']]
                shares = [f'{share:.6f}' for share in own]
                writer.writerow([*start, f'{photo["forward_ms"]:.3f}', *shares])

    def table(self) -> str:
        """Photos, the mean share of each class, and milliseconds for a photo."""
        lines = [f'{"photos":24} {len(self.photos):8}']
        if not self.photos:
            return lines[0]
        lines.append(f'{"mean share of a photo":24} {"%":>8}')
        means = np.mean(self.shares, axis=0)
        for label in np.argsort(-means, kind='stable').tolist():
            if means[label] > 0:
                lines.append(f'  {self.classes[label]:22} {100 * means[label]:8.2f}')
        return '\n'.join([*lines, time_table(self.seconds, 'photo')])


def _slide(tiling: Tiling) -> Slide:
    return Slide(tiling.size, max(round(tiling.size * (1 - tiling.overlap)), 1))
