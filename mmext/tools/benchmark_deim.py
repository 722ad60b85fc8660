"""Latency and memory of DEIMv2 in its forms, side by side. A Markdown table, a row a variant and form.

    python tools/benchmark_deim.py s --threads 2
    python tools/benchmark_deim.py atto n s --train --train-batch 4 --out benchmark.md
    python tools/benchmark_deim.py atto n --forms eval text deploy text-deploy --threads 1

Forms: `deploy` is the model after `switch_to_deploy()`, `eval` before it. `port` is the same size in transformers, with
torch's fused attention, and `plain` that with attention written out, products and softmax one by one; it has the sizes
s, m, l, x only, and differs from the published networks in some layers (it also projects the memory and predicts a box
for every place of it, a few per cent of the time). `text` and `text-deploy` are `eval` and `deploy` with
`mmext.MultimodalFusion` behind them: a text of 512 channels for each of the 80 classes, compared in twice the channels of
the decoder and at most 256. Four columns say what that costs: parameters in thousands, the time of the whole against that
of the detector without, and the time of the fusion alone, within the same rounds and by processor time. Weights are
random. One image at a time; all forms of a variant run in turn in every round, so that a busy moment of the machine meets
all of them; ratios are medians over the rounds. Peak memory is measured with one thread, in processes of their own, beyond
what is there before: weights and images. A training step is the forward pass, the losses and the backward pass of
`--train-batch` images with 8 objects each. GFLOPs count a multiply-add as two, in convolutions, linear layers and
attention; sampling is left out.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mmext.apis.memory import in_fresh_process, peak_on_cpu
from mmext.apis.profiling import count_flops, count_parameters
from mmext.models.deim.variants import VARIANTS
from mmext.tools.command import add_traceback_argument, publish, run_command
from mmext.tools.deim_forms import DETECTOR_OF, FORMS, PORTED, Subject

MEGA, GIGA = 10**6, 10**9
DEFAULT_FORMS = tuple(form for form in FORMS if form not in DETECTOR_OF)
HEADER = ['variant', 'form', 'parameters (M)', 'GFLOPs', 'P50 (ms)', 'P95 (ms)', 'images / s']
HEADER += ['processor P50 (ms)', 'time / plain', 'time / port', 'time / eval']
MEMORY_HEADER = 'peak of test (MB)'
TRAIN_HEADER = [
    'training images / s',
    'processor ms a training image',
    'peak of a training step (MB)',
]
FUSION_HEADER = [
    'fusion: parameters (k)',
    'processor time with / without',
    'processor P50 alone (ms)',
    'alone / detector (%)',
]


class Times(NamedTuple):
    """Milliseconds of every round: what a user waits, and what all threads used of the processors."""

    wall: np.ndarray
    processor: np.ndarray


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='benchmark_deim',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('variants', nargs='+', metavar='VARIANT', help=', '.join(VARIANTS))
    parser.add_argument(
        '--forms', nargs='+', choices=FORMS, default=DEFAULT_FORMS, help='all without texts'
    )
    parser.add_argument('--threads', type=int, default=2, help='threads of torch (2)')
    parser.add_argument('--repeat', type=int, default=30, help='rounds that are timed (30)')
    parser.add_argument('--warmup', type=int, default=3, help='rounds before them (3)')
    parser.add_argument(
        '--train', action='store_true', help='measure time and memory of a training step too'
    )
    parser.add_argument('--train-batch', type=int, default=1, help='images of that step (1)')
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='write the table here too')
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def read_subjects(args: argparse.Namespace) -> list[Subject]:
    """What the command line asks for.

    Raises:
        ValueError: a variant that does not exist, numbers that cannot be, or a form without what it is compared with.
    """
    unknown = [name for name in args.variants if name not in VARIANTS]
    if unknown:
        raise ValueError(f'got the variant {unknown[0]!r}, expected some of {", ".join(VARIANTS)}')
    for name, lowest in (('threads', 1), ('repeat', 1), ('warmup', 0), ('train_batch', 1)):
        if getattr(args, name) < lowest:
            option = name.replace('_', '-')
            raise ValueError(f'--{option}: got {getattr(args, name)}, expected at least {lowest}')
    for form, detector in DETECTOR_OF.items():
        if form in args.forms and detector not in args.forms:
            raise ValueError(
                f'--forms: got {form} without {detector}, the detector alone, with which it is compared; add {detector}'
            )
    return [
        Subject(name, form)
        for name in args.variants
        for form in FORMS
        if form in args.forms and (form not in ('plain', 'port') or name in PORTED)
    ]


def time_in_turn(works: Sequence[Callable[[], object]], *, repeat: int, warmup: int) -> list[Times]:
    """Times of several pieces of work, one after the other in every round."""
    times = np.zeros((len(works), 2, warmup + repeat))
    for turn in range(warmup + repeat):
        for own, work in zip(times, works, strict=True):
            begin, processor_begin = time.perf_counter(), time.process_time()
            work()
            end, processor_end = time.perf_counter(), time.process_time()
            own[:, turn] = end - begin, processor_end - processor_begin
    return [Times(*own) for own in 1e3 * times[..., warmup:]]


@torch.inference_mode()
def run(model: nn.Module, image: torch.Tensor) -> None:
    """From the image to class logits and boxes."""
    model(image)


@torch.inference_mode()
def run_fusion(fusion: Any, queries: torch.Tensor, logits: torch.Tensor) -> None:
    """From queries and the detector's logits to fused ones."""
    fusion.detection_logits(fusion.compare(queries, logits))


def prediction_peak(subject: Subject) -> int:
    """Bytes that a prediction needs at its highest."""
    model, image = subject.build(), subject.make_images()
    run(model, image)  # what is set up once is not part of the peak
    return peak_on_cpu(partial(run, model, image))


def training_peak(subject: Subject, num_images: int) -> int:
    """Bytes that a training step needs at its highest, gradients included."""
    return peak_on_cpu(subject.make_training_step(num_images))


def training_cells(subject: Subject, args: argparse.Namespace) -> list[str]:
    """Speed and peak memory in training, which has one form only."""
    if subject.form != 'eval':
        return ['-'] * len(TRAIN_HEADER)
    peak = in_fresh_process(training_peak, subject, args.train_batch)
    step = subject.make_training_step(args.train_batch)
    (times,) = time_in_turn([step], repeat=args.repeat, warmup=args.warmup)
    wall, processor = (np.median(kind) / args.train_batch for kind in times)
    return [f'{1e3 / wall:.2f}', f'{processor:.0f}', f'{peak / MEGA:.0f}']


def table_rows(
    subjects: Sequence[Subject], models: Sequence[nn.Module], times: Sequence[Times]
) -> list[list[str]]:
    """Cells of the forms of one variant, without memory."""
    walls = {subject.form: own.wall for subject, own in zip(subjects, times, strict=True)}
    rows = []
    for subject, model, own in zip(subjects, models, times, strict=True):
        middle, slow = np.percentile(own.wall, [50, 95])
        row = [subject.variant, subject.form, f'{count_parameters(model) / MEGA:.2f}']
        row.append(f'{count_flops(partial(run, model, subject.make_images())) / GIGA:.2f}')
        row += [f'{middle:.1f}', f'{slow:.1f}', f'{1e3 / middle:.2f}']
        row.append(f'{np.median(own.processor):.1f}')
        for form in ('plain', 'port', 'eval'):
            row.append(f'{np.median(own.wall / walls[form]):.2f}' if form in walls else '-')
        rows.append(row)
    return rows


def fusion_cells(
    subject: Subject, model: Any, times: Mapping[str, Times], alone: Times | None
) -> list[str]:
    """What the fusion costs; `alone` are the times of the fusion by itself, `times` those of the forms."""
    if alone is None:
        return ['-'] * len(FUSION_HEADER)
    # By processor time: on a busy machine others interrupt long work, and hardly ever a millisecond.
    detector = times[DETECTOR_OF[subject.form]].processor
    return [
        f'{count_parameters(model.fusion) / 1e3:.0f}',
        f'{np.median(times[subject.form].processor / detector):.3f}',
        f'{np.median(alone.processor):.2f}',
        f'{100 * np.median(alone.processor / detector):.2f}',
    ]


def measure_variant(subjects: Sequence[Subject], args: argparse.Namespace) -> list[list[str]]:
    """The rows of the forms of one variant, without memory."""
    models = [subject.build() for subject in subjects]
    pairs = list(zip(subjects, models, strict=True))
    works = [partial(run, model, subject.make_images()) for subject, model in pairs]
    fused = [subject.form for subject in subjects if subject.form in DETECTOR_OF]
    works += [
        partial(run_fusion, model.fusion, *subject.make_fusion_inputs())
        for subject, model in pairs
        if subject.form in fused
    ]
    times = time_in_turn(works, repeat=args.repeat, warmup=args.warmup)
    whole, alone = times[: len(subjects)], dict(zip(fused, times[len(subjects) :], strict=True))
    rows = table_rows(subjects, models, whole)
    by_form = {subject.form: own for subject, own in zip(subjects, whole, strict=True)}
    if has_texts(args):
        for (subject, model), row in zip(pairs, rows, strict=True):
            row += fusion_cells(subject, model, by_form, alone.get(subject.form))
    return rows


def has_texts(args: argparse.Namespace) -> bool:
    """Whether a form with texts is asked for."""
    return any(form in DETECTOR_OF for form in args.forms)


def benchmark(args: argparse.Namespace) -> None:
    """Measures and prints."""
    subjects = read_subjects(args)
    torch.set_num_threads(args.threads)
    rows = []
    for name in dict.fromkeys(args.variants):
        own = [subject for subject in subjects if subject.variant == name]
        rows += measure_variant(own, args)
    for subject, row in zip(subjects, rows, strict=True):
        row.append(f'{in_fresh_process(prediction_peak, subject) / MEGA:.0f}')
        row += training_cells(subject, args) if args.train else []
    header = [*HEADER, *FUSION_HEADER * has_texts(args), MEMORY_HEADER, *TRAIN_HEADER * args.train]
    lines = [header, ['---', '---', *['---:'] * (len(header) - 2)], *rows]
    table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    title = (
        f'torch {torch.__version__} on the CPU, {args.threads} thread(s), one image at a time at the size of the variant, '
        f'float32, {args.repeat} rounds, all forms in turn.'
    )
    publish(f'{title}\n\n{table}', args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(benchmark, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
