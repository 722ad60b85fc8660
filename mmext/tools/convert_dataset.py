"""Convert a raw data set to COCO, to images with mattes or with maps of classes: `convert_dataset.py FORMAT RAW OUT`, see `--help` of each.

Exit code 0 with problems reported as warnings, 1 for problems under `--strict`, 2 if nothing can be used.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from mmext.datasets.converters import CONVERTERS, MATTE_CONVERTERS, SEMANTIC_CONVERTERS
from mmext.datasets.converters.label_maps import (
    LabelRecord,
    draw_label_maps,
    write_label_maps,
)
from mmext.datasets.converters.mattes import write_mattes
from mmext.datasets.converters.records import RawDataset
from mmext.datasets.converters.single_objects import write_single_objects
from mmext.datasets.converters.splits import assign_splits
from mmext.datasets.converters.writer import REPORT_NAME, summary, write_coco
from mmext.datasets.report import Report
from mmext.tools.command import add_traceback_argument, run_command

ALL_CONVERTERS = CONVERTERS | MATTE_CONVERTERS


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """One sub-command a format, whose own options are the fields of its converter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    formats = parser.add_subparsers(dest='format', required=True, metavar='FORMAT')
    for name, converter in ALL_CONVERTERS.items():
        module_text = sys.modules[converter.__module__].__doc__ or ''
        sub = formats.add_parser(
            name,
            help=module_text.splitlines()[0],
            description=module_text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument('raw', type=Path, help='folder of the raw data')
        sub.add_argument(
            'out',
            type=Path,
            help='folder to write images/ to, and {train,val,test}.json, or alpha/ or labels/ and {train,val,test}.txt',
        )
        sub.add_argument(
            '--link', action='store_true', help='hard-link the images instead of copying'
        )
        sub.add_argument(
            '--strict', action='store_true', help='exit with 1 if there was any problem'
        )
        sub.add_argument(
            '--fractions',
            type=float,
            nargs=3,
            default=(0.7, 0.15, 0.15),
            metavar=('TRAIN', 'VAL', 'TEST'),
            help='shares of the splits, where the raw data names none (default: 0.7 0.15 0.15)',
        )
        sub.add_argument('--seed', type=int, default=0, help='of the split (default: 0)')
        # One form is written.
        forms = sub.add_mutually_exclusive_group()
        if name in SEMANTIC_CONVERTERS:
            forms.add_argument(
                '--semantic',
                action='store_true',
                help="write maps of classes and lists for mmseg's BaseSegDataset: labels/, {train,val,test}.txt",
            )
        if name in CONVERTERS:
            forms.add_argument(
                '--csv',
                action='store_true',
                help='write {train,val,test}.csv of the images with exactly one object instead of COCO',
            )
        add_traceback_argument(sub)
        for option in dataclasses.fields(converter):  # type: ignore[arg-type]
            sub.add_argument(
                f'--{option.name.replace("_", "-")}', default=option.default, **option.metadata
            )
    return parser.parse_args(argv)


def convert(args: argparse.Namespace) -> int:
    """Read, split, write and report.

    Returns:
        The exit code: 1 for problems under `--strict`, else 0.

    Raises:
        ValueError: Nothing can be used.
    """
    if not args.raw.is_dir():
        raise ValueError(f'{args.raw} is no folder. Give the folder of the raw data.')
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f'OUT ({args.out}) is a file. Give a folder, new or old.')
    if args.out.resolve().is_relative_to(args.raw.resolve()):
        raise ValueError(
            f'OUT lies in RAW ({args.out}): its images would be read as raw data. Choose another.'
        )
    is_semantic = vars(args).get('semantic', False)
    converter_class = (SEMANTIC_CONVERTERS if is_semantic else ALL_CONVERTERS)[args.format]
    names = [option.name for option in dataclasses.fields(converter_class)]  # type: ignore[arg-type]
    converter = converter_class(**{name: getattr(args, name) for name in names})
    report = Report()
    dataset = converter.read(args.raw, report)
    assign_splits(dataset.images, tuple(args.fractions), args.seed)
    dataset.images = [image for image in dataset.images if image.kept]
    write = write_mattes if args.format in MATTE_CONVERTERS else _write_coco
    if vars(args).get('csv'):
        write = write_single_objects
    if is_semantic:
        write = _write_label_maps
    print('\n'.join(write(dataset, args.out, report, args.link)))
    print(report.text())
    print(f'written to {args.out} (every entry of the report: {args.out / REPORT_NAME})')
    return 1 if args.strict and report.num_problems else 0


def _write_coco(dataset: RawDataset, out: Path, report: Report, link: bool) -> list[str]:
    """`write_coco`; a line a split."""
    splits = write_coco(dataset, out, report, link)
    return [summary(split, coco) for split, coco in splits.items()]


def _write_label_maps(dataset: RawDataset, out: Path, report: Report, link: bool) -> list[str]:
    """`write_label_maps`, of maps or of objects."""
    if not all(isinstance(image, LabelRecord) for image in dataset.images):
        dataset = draw_label_maps(dataset, report)
    return write_label_maps(dataset, out, report, link)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(convert, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
