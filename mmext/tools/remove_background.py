"""Cuts the foreground out of photos and videos. `python -m mmext.tools.remove_background image|folder|video ...`

    remove_background image CONFIG CHECKPOINT photo.jpg cut.png
    remove_background image CONFIG CHECKPOINT photo.jpg red.png --bg '#c00000' --fg ml
    remove_background folder CONFIG CHECKPOINT photos/ cut/ --rgba --alpha --skip-existing
    remove_background video CONFIG CHECKPOINT clip.mp4 clip.mov      # ProRes 4444; .webm: VP9; no ending: PNG files

Products, RGBA if none is named: `--rgba` straight RGBA, `--alpha` the matte, `--bg` a new background. Pictures are PNG files of
exactly the photo's size, turned upright, with its colour profile. A folder is taken with all that is below it and keeps its
shape; several products have a folder each. report.json beside them says what took how long.

Exit code 0 if all is well, else 2: photos and frames that cannot be read are passed over and listed at the end.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from PIL import ImageColor
from tqdm import tqdm

from mmext.apis.background import BackgroundRemover
from mmext.apis.compositing import BLUR
from mmext.apis.cutout import Background, Cutout
from mmext.apis.cutout_jobs import Job, Outcome, Product, plan_jobs, run_jobs
from mmext.apis.cutout_outputs import check_not_input, check_targets, check_writable, split_jobs
from mmext.apis.cutout_report import folder_report
from mmext.apis.cutout_video import cut_video, video_writer
from mmext.apis.image_inputs import find_images, other_files
from mmext.apis.model import read_config
from mmext.apis.photo_files import read_photo
from mmext.apis.temporal import TemporalSmoother
from mmext.apis.timing import time_summary, time_table
from mmext.apis.video import VideoReader
from mmext.engine.config_file import merge_options
from mmext.engine.dist import set_device
from mmext.tools.background_arguments import make_parser
from mmext.tools.command import check_checkpoint, run_command
from mmext.tools.failures import failure_line


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    return make_parser(__doc__).parse_args(argv)


def remove_background(args: argparse.Namespace) -> None:
    """Does what the command line says.

    Raises:
        ValueError: a wrong argument, before anything is written; what could not be read, at the end.
        OSError: the output cannot be written.
    """
    products = read_products(args)
    {'image': cut_image, 'folder': cut_folder, 'video': cut_clip}[args.kind](args, products)


def cut_image(args: argparse.Namespace, products: Sequence[Product]) -> None:
    """One photo, to a file.

    Raises:
        ValueError: wrong names; the photo cannot be read.
    """
    product = only_product(products)
    if args.out.suffix.lower() != '.png':
        raise ValueError(f'got the output {args.out}, expected a name ending in .png')
    source = Path(args.input)
    if not source.is_file():
        raise ValueError(f'{source} is no file; expected a photo (`folder` takes folders)')
    check_not_input(args.out, source)
    check_writable(args.out.parent)
    job = Job(source, {product.name: args.out})
    options: dict[str, Any] = dict(workers=1, level=args.png_level)
    (outcome,) = run_jobs(make_remover(args), [job], products, **options)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.seconds is not None
    print(time_table([outcome.seconds], 'photo'))
    print(f'written: {args.out}')


def cut_folder(args: argparse.Namespace, products: Sequence[Product]) -> None:
    """All photos below a folder.

    Raises:
        ValueError: the folder has no photos or holds the output; photos that failed, at the end.
    """
    source = Path(args.input)
    if source.is_dir() and args.out.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f'the output {args.out} lies in {source}: the next run would take cut-outs for photos. Choose another folder.'
        )
    jobs = plan_jobs(find_images(args.input), args.out, [product.name for product in products])
    check_targets(jobs)
    check_writable(args.out)
    report_path = args.report or args.out / 'report.json'
    check_writable(report_path.parent)
    there, todo = split_jobs(jobs, args.skip_existing)
    outcomes: list[Outcome] = []
    if todo:
        options: dict[str, Any] = dict(
            batch_size=args.batch_size, workers=args.workers, level=args.png_level
        )
        done = run_jobs(make_remover(args), todo, products, **options)
        for outcome in tqdm(done, total=len(todo), unit='photo', disable=not sys.stderr.isatty()):
            outcomes.append(outcome)
    left_out = other_files(source) if source.is_dir() else []
    report = folder_report(
        outcomes,
        settings(args),
        skipped=[str(job.source) for job in there],
        left_out=list(map(str, left_out)),
    )
    write_report(report_path, report)
    seconds = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
    print(time_table(seconds, 'photo') or 'nothing was cut out')
    print(f'{len(seconds)} done, {len(there)} were there; written: {args.out}')
    if left_out:
        print(f'left out, no images by their ending: {count_endings(left_out)}')
    failures = [outcome for outcome in outcomes if outcome.error is not None]
    if failures:
        raise ValueError(
            f'{len(failures)} of {len(todo)} photos could not be cut out:\n  '
            + '\n  '.join(failure_text(outcome) for outcome in failures)
        )


def cut_clip(args: argparse.Namespace, products: Sequence[Product]) -> None:
    """A video.

    Raises:
        ValueError: no video; broken frames, at the end.
    """
    product = only_product(products)
    check_not_input(args.out, Path(args.input))
    with VideoReader(args.input) as reader:
        writer = video_writer(args.out, reader)
        check_writable(args.out.parent)
        report_path = args.report or args.out.with_name(f'{args.out.name}.report.json')
        check_writable(report_path.parent)
        smoother = TemporalSmoother(args.smoothing)
        work = cut_video(make_remover(args), reader, writer, product, smoother)
        total = reader.num_frames or None
        bar = tqdm(work, total=total, unit='frame', disable=not sys.stderr.isatty())
        seconds = list(bar)
        report = dict(
            settings=settings(args),
            num_frames=len(seconds),
            num_broken=reader.num_broken,
            num_damaged=reader.num_damaged,
            stopped=reader.end,
            audio=writer.audio,
            seconds=time_summary(seconds),
        )
    write_report(report_path, report)
    print(time_table(seconds, 'frame'))
    print(f'{len(seconds)} frames, sound: {writer.audio}; written: {args.out}')
    if reader.num_broken or reader.num_damaged or reader.end:
        raise ValueError(
            f'{args.input}: {reader.num_broken} frames could not be decoded (the ones before stand for them), '
            f'{reader.num_damaged} were damaged'
            + (f', and reading stopped early: {reader.end}' if reader.end else '')
        )


def read_products(args: argparse.Namespace) -> list[Product]:
    """What the command line asks for.

    Raises:
        ValueError: an option without effect, or a background that is none.
    """
    if args.bg is None and args.linear_light:
        raise ValueError('--linear-light needs --bg, a new background')
    if args.bg != 'blur' and args.blur != BLUR:
        raise ValueError('--blur needs --bg blur')
    if not args.alpha and args.bits != 8:
        raise ValueError('--bits needs --alpha')
    products = []
    if args.rgba or not (args.alpha or args.bg):
        products.append(Product('rgba', Cutout.rgba))
    if args.alpha:
        products.append(Product('alpha', partial(Cutout.alpha_picture, bits=args.bits)))
    if args.bg:
        options: dict[str, Any] = dict(blur=args.blur, linear_light=args.linear_light)
        own = partial(Cutout.over, background=read_background(args.bg), **options)
        products.append(Product('composite', own))
    return products


def read_background(text: str) -> Background:
    """'blur', an image file, or a colour.

    Raises:
        ValueError: it is none of these, or a file that cannot be read.
    """
    if text == 'blur':
        return text
    if Path(text).is_file():
        return read_photo(text).pixels
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise ValueError(
            f"--bg: got {text!r}, expected 'blur', an image file that exists, or a colour such as 'white', '#ff8000' or "
            "'rgb(255,128,0)'"
        ) from error
    return red, green, blue


def only_product(products: Sequence[Product]) -> Product:
    """The product.

    Raises:
        ValueError: there are several.
    """
    if len(products) > 1:
        names = ', '.join(product.name for product in products)
        raise ValueError(f'got the products {names}, expected one: there is one output')
    return products[0]


def make_remover(args: argparse.Namespace) -> BackgroundRemover:
    """The model of the command line, on its device."""
    if args.device:
        set_device(args.device)
    cfg = read_config(args.config)
    if args.cfg_options:
        merge_options(cfg, args.cfg_options)
    check_checkpoint(args.checkpoint)
    options: dict[str, Any] = dict(foreground=args.fg, tta=args.tta, snap=args.snap)
    return BackgroundRemover(cfg, args.checkpoint, get_device(), **options)


def failure_text(outcome: Outcome) -> str:
    """One line on a photo that failed, with its name."""
    assert outcome.error is not None
    return failure_line(outcome.job.source, outcome.error)


def count_endings(paths: Sequence[Path]) -> str:
    """Files by their ending, most first: '12 .heic, 1 .txt'."""
    endings = Counter(path.suffix.lower() or 'without ending' for path in paths)
    return ', '.join(f'{count} {ending}' for ending, count in endings.most_common())


def settings(args: argparse.Namespace) -> dict[str, object]:
    """The command line, for the report."""
    return {
        name: value if isinstance(value, (bool, int, float)) or value is None else str(value)
        for name, value in vars(args).items()
        if name != 'traceback'
    }


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Writes the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1), encoding='utf-8')


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(remove_background, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
