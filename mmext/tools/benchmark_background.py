"""Time of every part of a cut-out, and peak memory of large ones. Markdown tables.

    python tools/benchmark_background.py CONFIG CHECKPOINT --threads 1
    python tools/benchmark_background.py CONFIG none --fg blur ml none --memory 4k 8k

A drawn portrait is written as JPEG, read, cut out and written as RGBA PNG, over and over, everything in one thread but the network.
Wall time and the time of the processors are both given: on a busy machine only the second says what the work takes.
`none` for the checkpoint leaves the weights as they were drawn: times are the same. Memory is measured in processes of
their own, beyond the model and what Python has loaded, from the file to the file.
"""

import argparse
import importlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mmext.apis.background import BackgroundRemover
from mmext.apis.cutout import PartSeconds
from mmext.apis.foreground import METHODS
from mmext.apis.memory import in_fresh_process, peak_on_cpu
from mmext.apis.photo_files import PNG_LEVEL, write_png
from mmext.apis.timing import time_summary
from mmext.tools.command import add_traceback_argument, check_checkpoint, publish, run_command

MEGA = 10**6
# (height, width)
SIZES = {
    '1080p': (1080, 1920),
    '4k': (2160, 3840),
    '8k': (4320, 7680),
    '48mp': (6000, 8000),
}


class Subject(NamedTuple):
    """What is measured: enough to build it again in another process.

    Attributes:
        config: config file.
        checkpoint: weights; None for those that the constructors draw.
        foreground: method of the estimate.
        tta: with the mirrored image.
    """

    config: str
    checkpoint: str | None
    foreground: str
    tta: bool

    def build(self, clock: Callable[[], float] = time.perf_counter) -> BackgroundRemover:
        """The remover on the CPU."""
        return BackgroundRemover(
            self.config, self.checkpoint, foreground=self.foreground, tta=self.tta, clock=clock
        )


def draw_photo(size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: a head and shoulders with soft edges before coarse noise."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (18, 32, 3), dtype=np.uint8)
    photo: NDArray = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    person: NDArray = np.zeros((270, 480), np.uint8)
    cv2.ellipse(person, (240, 110), (50, 65), 0, 0, 360, 255, -1)
    cv2.ellipse(person, (240, 290), (130, 110), 0, 0, 360, 255, -1)
    person = cv2.GaussianBlur(person, (0, 0), 2)
    share = cv2.resize(person, (width, height), interpolation=cv2.INTER_LINEAR)
    skin = np.empty_like(photo)
    skin[:] = 220, 170, 150
    # Weights must be float32 in OpenCV; it adds 1e-5 to their sum.
    front = share / np.float32(255)
    mixed: NDArray = cv2.blendLinear(skin, photo, front, 1 - front)
    return mixed


def cut_file(remover: BackgroundRemover, source: Path, target: Path, level: int) -> PartSeconds:
    """From the file to the RGBA file."""
    (cutout,) = remover(source)
    start = remover.clock()
    write_png(target, cutout.rgba(), cutout.profile, level)
    return cutout.seconds._replace(encode=remover.clock() - start)


def measure_times(subject: Subject, args: argparse.Namespace, source: Path) -> list[list[str]]:
    """Rows of the table of times: every part, by both clocks."""
    target = source.with_suffix('.png')
    columns = []
    for clock in (time.perf_counter, time.process_time):
        remover = subject.build(clock)
        times = [
            cut_file(remover, source, target, args.png_level)
            for _ in range(args.warmup + args.repeat)
        ]
        columns.append(time_summary(times[args.warmup :]))
    wall, processor = columns
    return [
        [subject.foreground, part]
        + [f'{1e3 * own[part][name]:.1f}' for own in (wall, processor) for name in ('p50', 'p95')]
        for part in wall
    ]


def measure_peak(subject: Subject, source: Path, level: int) -> int:
    """Bytes that one cut-out needs at its highest, from file to file."""
    cv2.setNumThreads(1)  # the process is forked, which threads do not survive
    remover = subject.build()
    small = source.with_name('small.jpg')
    Image.fromarray(draw_photo((270, 480))).save(small)
    work = partial(cut_file, remover, target=source.with_suffix('.png'), level=level)
    work(source=small)  # what is set up once is not part of the peak
    return peak_on_cpu(partial(work, source=source))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='benchmark_background',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help="checkpoint file, or 'none'")
    parser.add_argument('--size', choices=list(SIZES), default='1080p', help='of the timed photo')
    parser.add_argument('--memory', nargs='*', choices=list(SIZES), default=[], help='sizes')
    parser.add_argument('--fg', nargs='+', choices=list(METHODS), default=['blur'])
    parser.add_argument('--tta', action='store_true', help='mean with the mirrored image')
    parser.add_argument(
        '--threads', type=int, default=1, help='of the network, OpenCV and pymatting (1)'
    )
    parser.add_argument('--repeat', type=int, default=20, help='cut-outs that are timed (20)')
    parser.add_argument('--warmup', type=int, default=3, help='cut-outs before them (3)')
    parser.add_argument(
        '--png-level', type=int, choices=range(10), default=PNG_LEVEL, metavar='0..9',
        help=f'compression ({PNG_LEVEL})',
    )  # fmt: skip
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='write the tables here too')
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def benchmark(args: argparse.Namespace) -> None:
    """Measures and prints.

    Raises:
        ValueError: a number outside its range.
    """
    for name, lowest in (('threads', 1), ('repeat', 1), ('warmup', 0)):
        if getattr(args, name) < lowest:
            raise ValueError(f'--{name}: got {getattr(args, name)}, expected at least {lowest}')
    checkpoint = None if args.checkpoint == 'none' else args.checkpoint
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    limit_threads(args.threads, args.fg)
    subjects = [Subject(args.config, checkpoint, method, args.tta) for method in args.fg]
    with tempfile.TemporaryDirectory() as folder:
        tables = [times_table(subjects, args, Path(folder))]
        if args.memory:
            tables.append(memory_table(subjects, args, Path(folder)))
    text = '\n\n'.join(tables)
    publish(text, args.out)


def limit_threads(count: int, methods: Sequence[str]) -> None:
    """Sets the threads of the network, of OpenCV and, if 'ml' is measured, of pymatting."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    if 'ml' in methods and importlib.util.find_spec('numba'):
        numba = importlib.import_module('numba')
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))


def times_table(subjects: Sequence[Subject], args: argparse.Namespace, folder: Path) -> str:
    """The table of times."""
    source = write_photo(folder, args.size)
    rows = [row for subject in subjects for row in measure_times(subject, args, source)]
    title = (
        f'torch {torch.__version__} on the CPU, {args.threads} thread(s), {args.size} JPEG to RGBA PNG of level '
        f'{args.png_level}, {args.repeat} cut-outs, milliseconds.'
    )
    header = ['foreground', 'part', 'P50', 'P95', 'processor P50', 'processor P95']
    return f'{title}\n\n{markdown(header, rows)}'


def memory_table(subjects: Sequence[Subject], args: argparse.Namespace, folder: Path) -> str:
    """The table of peaks."""
    rows = []
    for name in args.memory:
        source = write_photo(folder, name)
        pixels = SIZES[name][0] * SIZES[name][1]
        for subject in subjects:
            peak = in_fresh_process(measure_peak, subject, source, args.png_level)
            row = [subject.foreground, name, f'{pixels / MEGA:.1f}', f'{peak / MEGA:.0f}']
            rows.append([*row, f'{peak / pixels:.1f}'])
    header = ['foreground', 'photo', 'megapixels', 'peak (MB)', 'bytes a pixel']
    return markdown(header, rows)


def write_photo(folder: Path, size: str) -> Path:
    """The drawn photo as JPEG."""
    path = folder / f'{size}.jpg'
    Image.fromarray(draw_photo(SIZES[size])).save(path, quality=92)
    return path


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first two columns are names."""
    lines = [header, ['---', '---', *['---:'] * (len(header) - 2)], *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(benchmark, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
