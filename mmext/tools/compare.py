"""Compares detectors: size, operations, time, memory and, from result files, scores. A Markdown table, a column a config.

    python tools/compare.py configs/yolo/segment_v8n_8xb16-500e_coco.py configs/yolo/segment_v11n_8xb16-600e_coco.py
    python tools/compare.py A.py B.py --results A1.json,A2.json B1.json,B2.json --out comparison.md
    python tools/compare.py configs/localizer/*.py --size 256 --photo-size 640x640 --threads 2

All configs are timed in turn, stage by stage; on a busy machine compare the processor times. The photo is an artificial one; `--num-detections` objects of 16 to 256
pixels of the network input are planted into the outputs of YOLO heads, so that no training is needed (other heads
find what they find). Models that have a deploy form, as DEIM, are measured in it, in which `predict.py` runs them. A result file is what `tools/test.py` writes, WORK_DIR/<time>/<time>.json, or the
WORK_DIR/<time>/vis_data/scalars.json of a training, of which the last validation counts.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from mmext.apis.memory import in_fresh_process
from mmext.apis.model import deploy, init_model
from mmext.apis.profiling import (
    STAGES,
    Workload,
    count_flops,
    count_parameters,
    make_photo,
    time_interleaved,
)
from mmext.evaluation.result_files import read_result_file
from mmext.tools.command import add_traceback_argument, check_checkpoint, publish, run_command

NO_RESULTS = 'none'
MEGA = 10**6
STAGE_ROWS = {
    'pre': 'before the network: resize, normalise (ms, P50 / P95)',
    'net': 'network (ms, P50 / P95)',
    'post': 'post-processing (ms, P50 / P95)',
    'total': 'total (ms, P50 / P95)',
}
PROCESSOR_ROW = 'processor time before / in / after the network (ms, P50)'
MEMORY_ROWS = {
    'net': 'peak memory of the network beyond its weights (MB)',
    'post': 'peak memory of post-processing beyond the outputs (MB)',
}


class Subject(NamedTuple):
    """What is measured, and how: enough to build it again in another process.

    Attributes:
        config: config file.
        checkpoint: weights; None for random ones.
        device: 'cpu', 'cuda', ...
        input_size: side of the network input in pixels.
        photo_size: (width, height) in pixels.
        num_detections: objects planted into the outputs; None for none.
    """

    config: str
    checkpoint: str | None
    device: str
    input_size: int
    photo_size: tuple[int, int]
    num_detections: int | None

    def build(self) -> Workload:
        """The model with its photo.

        Raises:
            ValueError: the model is none that can be measured.
        """
        model = init_model(self.config, self.checkpoint, self.device)
        deploy(model)
        try:
            return Workload(
                model,
                make_photo(self.photo_size),
                input_size=self.input_size,
                num_detections=self.num_detections,
            )
        except ValueError as error:
            raise ValueError(f'{self.config}: {error}') from error


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='compare',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config file')
    parser.add_argument(
        '--checkpoints', nargs='+', metavar='FILE', help='one per config; default: random weights'
    )
    parser.add_argument(
        '--results',
        nargs='+',
        metavar='FILE.json[,FILE.json]',
        help=f"one per config; several with commas, such as seeds, are averaged; '{NO_RESULTS}' for none",
    )
    parser.add_argument('--size', type=int, default=640, help='side of the network input (640)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:<index> (cpu)')
    parser.add_argument('--repeat', type=int, default=30, help='rounds that are timed (30)')
    parser.add_argument('--warmup', type=int, default=5, help='rounds before them (5)')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch and OpenCV (1)')
    parser.add_argument('--photo-size', default='1920x1080', metavar='WxH', help='(1920x1080)')
    parser.add_argument(
        '--num-detections', type=int, default=100, help='0: what the network finds (100)'
    )
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='write the table here too')
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def read_subjects(args: argparse.Namespace) -> list[Subject]:
    """The configs of the command line, checked.

    Raises:
        ValueError: lists of different lengths, or numbers that cannot be.
        FileNotFoundError: there is no such checkpoint.
    """
    for name, lowest in (('size', 32), ('repeat', 1), ('warmup', 0), ('threads', 1)):
        if getattr(args, name) < lowest:
            raise ValueError(f'--{name}: got {getattr(args, name)}, expected at least {lowest}')
    if args.num_detections < 0:
        raise ValueError(f'--num-detections: got {args.num_detections}, expected at least 0')
    checkpoints = one_per_config(args, 'checkpoints')
    for path in filter(None, checkpoints):
        check_checkpoint(path)
    width, _, height = args.photo_size.partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f'--photo-size: got {args.photo_size!r}, expected WxH such as 1920x1080')
    return [
        Subject(
            config,
            checkpoint,
            device=args.device,
            input_size=args.size,
            photo_size=(int(width), int(height)),
            num_detections=args.num_detections or None,
        )
        for config, checkpoint in zip(args.configs, checkpoints, strict=True)
    ]


def one_per_config(args: argparse.Namespace, name: str) -> list[str | None]:
    """The values of an option that is given for every config or not at all.

    Raises:
        ValueError: another number.
    """
    values = getattr(args, name)
    if values is None:
        return [None] * len(args.configs)
    if len(values) != len(args.configs):
        raise ValueError(
            f'--{name}: got {len(values)} for {len(args.configs)} configs, expected one for each'
        )
    return list(values)


def read_scores(entry: str | None) -> dict[str, list[float]]:
    """Scores by name, one value for each of the files of an entry of `--results`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file has no scores.
    """
    scores: dict[str, list[float]] = {}
    for path in [] if entry in (None, NO_RESULTS) else str(entry).split(','):
        for name, value in read_result_file(path).items():
            scores.setdefault(name, []).append(value)
    return scores


def measure_memory(subjects: Sequence[Subject]) -> list[dict[str, int]]:
    """Peak memory of the stages of each, in bytes."""
    memory = []
    for subject in subjects:
        workload = subject.build()
        workload.net()  # what is set up once is not part of the peak
        memory.append({stage: workload.peak_memory(stage) for stage in MEMORY_ROWS})
    return memory


def measure(subjects: Sequence[Subject], args: argparse.Namespace) -> dict[str, list[str]]:
    """Rows of the table: what is measured -> its cells, one a config."""
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    workloads = [subject.build() for subject in subjects]
    flops = [
        {stage: count_flops(getattr(own, stage)) for stage in ('net', 'post')} for own in workloads
    ]
    times = time_interleaved(workloads, repeat=args.repeat, warmup=args.warmup)
    if args.device == 'cpu':
        memory = in_fresh_process(measure_memory, subjects)
    else:
        memory = measure_memory(subjects)
    rows = {
        'parameters (M)': [f'{count_parameters(own.model) / MEGA:.3f}' for own in workloads],
        'GFLOPs of the network (a multiply-add is two)': [f'{f["net"] / 1e9:.2f}' for f in flops],
        'GFLOPs of post-processing': [f'{own["post"] / 1e9:.2f}' for own in flops],
    }
    for stage, name in STAGE_ROWS.items():
        rows[name] = [percentiles(own.wall[stage]) for own in times]
    if args.device == 'cpu':
        rows[PROCESSOR_ROW] = [
            ' / '.join(f'{np.median(own.processor[stage]):.1f}' for stage in STAGES)
            for own in times
        ]
    for stage, name in MEMORY_ROWS.items():
        rows[name] = [f'{own[stage] / MEGA:.1f}' for own in memory]
    rows['objects that post-processing finds'] = [str(own.num_found) for own in workloads]
    return rows


def percentiles(times: np.ndarray) -> str:
    """The median and the 95th percentile."""
    middle, slow = np.percentile(times, [50, 95])
    return f'{middle:.1f} / {slow:.1f}'


def score_rows(scores: Sequence[dict[str, list[float]]]) -> dict[str, list[str]]:
    """Rows of the table for every score that one of the configs has."""
    names = dict.fromkeys(name for own in scores for name in own)
    return {name: [score_cell(own.get(name, [])) for own in scores] for name in names}


def score_cell(values: Sequence[float]) -> str:
    """The mean of the runs and, for several, the lowest and the highest; '-' where nothing was scored."""
    known = [value for value in values if value >= 0]  # -1 and NaN: no such objects
    if not known:
        return '-'
    text = f'{math.fsum(known) / len(known):.3f}'
    return text if len(known) == 1 else f'{text} ({min(known):.3f} to {max(known):.3f})'


def markdown(columns: Sequence[str], rows: dict[str, list[str]]) -> str:
    """A table with a column a config and a row a quantity."""
    lines = [['', *columns], ['---', *['---:'] * len(columns)]]
    lines += [[name, *cells] for name, cells in rows.items()]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def compare(args: argparse.Namespace) -> None:
    """Measures and prints."""
    subjects = read_subjects(args)
    # Before minutes of measuring: files that are missing.
    scores = [read_scores(entry) for entry in one_per_config(args, 'results')]
    title = (
        f'torch {torch.__version__} on {args.device}, {args.threads} thread(s); network input {args.size} x {args.size}, '
        f'photo {args.photo_size}, one image at a time, {args.repeat} rounds, all configs in turn.'
    )
    table = markdown(
        [Path(subject.config).stem for subject in subjects],
        measure(subjects, args) | score_rows(scores),
    )
    publish(f'{title}\n\n{table}', args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(compare, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
