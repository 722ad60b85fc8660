"""Time and memory of Mask2Former's query decoder, mmdet's against mmext's, side by side. A Markdown table.

    python tools/benchmark_queries.py --threads 1 --size 512 --objects 50
    python tools/benchmark_queries.py --config mmdet::mask2former/mask2former_r101_8xb2-lsj-50e_coco.py

Both heads are built from the same config with the same random weights; the pixel decoder is left out: its outputs are given
tensors that ask for gradients. A prediction is classes and mask logits of one image at a quarter of its size. A training
step is the forward pass, the losses with their matching and the backward pass of one image with `--objects` discs. Heads run
in turn in every round, so that a busy moment of the machine meets both; ratios are medians over the rounds. Peak memory is
measured with one thread, in processes of their own, beyond what is there before: weights, features and ground truth.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from torch import Tensor, nn

from mmext.apis.memory import in_fresh_process, peak_on_cpu
from mmext.apis.model import read_config
from mmext.registry import MODELS
from mmext.tools.benchmark_memory import make_truth
from mmext.tools.command import add_traceback_argument, publish, run_command

MEGA = 10**6
HEADS = {'mmdet': 'mmdet.Mask2FormerHead', 'mmext': 'mmext.FastMask2FormerHead'}
PUBLISHED = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'
# Of the backbone: nobody reads them, but mmdet's head counts their images.
NO_FEATURES = [torch.empty(1, 0)]
HEADER = ['', 'mmdet', 'mmext', 'mmdet / mmext']


class GivenFeatures(nn.Module):
    """Stands for the pixel decoder: always the same features of one image.

    Args:
        channels: of every feature map.
        size: side of the image, a multiple of 32.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.maps = [
            torch.randn(1, channels, size // stride, size // stride, generator=generator)
            for stride in (4, 32, 16, 8)
        ]

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Mask features, and memories, coarsest first."""
        finest, *memories = (x.detach().requires_grad_() for x in self.maps)
        return finest, memories


def build_head(config: ConfigDict, kind: str, size: int) -> nn.Module:
    """A head of `HEADS` with random weights, on `GivenFeatures`."""
    torch.manual_seed(0)
    head = MODELS.build(ConfigDict(config, type=HEADS[kind]))
    head.init_weights()
    head.pixel_decoder = GivenFeatures(config.feat_channels, size)
    return head


@torch.inference_mode()
def predict(head: nn.Module, sample: DetDataSample) -> None:
    """Classes and masks."""
    head.eval()(NO_FEATURES, [sample])


def train(head: nn.Module, sample: DetDataSample) -> None:
    """Forward pass, losses, backward pass; the gradients stay until the next step begins."""
    head.zero_grad()
    losses = head.train().loss(NO_FEATURES, [sample])  # type: ignore[operator]
    torch.stack([loss.sum() for loss in losses.values()]).sum().backward()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='benchmark_queries',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--config', default=PUBLISHED, help=f'with a panoptic_head of Mask2Former ({PUBLISHED})'
    )
    parser.add_argument('--size', type=int, default=512, help='side of the image (512)')
    parser.add_argument('--objects', type=int, default=50, help='of the training step (50)')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch (1)')
    parser.add_argument('--repeat', type=int, default=7, help='rounds that are timed (7)')
    parser.add_argument('--warmup', type=int, default=1, help='rounds before them (1)')
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='write the table here too')
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def read_head_config(args: argparse.Namespace) -> ConfigDict:
    """Config of the head, `train_cfg` included.

    Raises:
        ValueError: numbers that cannot be, or a config without a head of Mask2Former.
    """
    limits = (('objects', 0), ('threads', 1), ('repeat', 1), ('warmup', 0))
    for name, lowest in limits:
        if getattr(args, name) < lowest:
            raise ValueError(f'--{name}: got {getattr(args, name)}, expected at least {lowest}')
    if args.size < 32 or args.size % 32:
        raise ValueError(f'--size: got {args.size}, expected a multiple of 32')
    model = (get_config if '::' in args.config else read_config)(args.config).model
    head = model.get('panoptic_head', {})
    known = [name for kind in HEADS.values() for name in (kind, kind.partition('.')[2])]
    if head.get('type') not in known:
        raise ValueError(
            f'--config: got {args.config} with the panoptic_head {head.get("type")!r}, expected one of {known}'
        )
    return ConfigDict(head, train_cfg=model.train_cfg, test_cfg=model.test_cfg)


def time_in_turn(works: Sequence[Callable[[], object]], *, repeat: int, warmup: int) -> np.ndarray:
    """Milliseconds of several pieces of work, one after the other in every round.

    Returns:
        (2, works, repeat): what a user waits, and what all threads used of the processors.
    """
    times = np.zeros((2, len(works), warmup + repeat))
    for turn in range(warmup + repeat):
        for index, work in enumerate(works):
            begin, processor_begin = time.perf_counter(), time.process_time()
            work()
            end, processor_end = time.perf_counter(), time.process_time()
            times[:, index, turn] = end - begin, processor_end - processor_begin
    return 1e3 * times[..., warmup:]


def measure_peak(config: ConfigDict, kind: str, size: int, objects: int) -> int:
    """Bytes that a training step needs at its highest. To be called in a fresh process."""
    head = build_head(config, kind, size)
    return peak_on_cpu(partial(train, head, make_sample(size, objects)))


def make_sample(size: int, objects: int) -> DetDataSample:
    """An image's ground truth, as a data preprocessor leaves it."""
    sample = make_truth(objects, size)
    sample.set_metainfo(dict(batch_input_shape=(size, size)))
    return sample


def benchmark(args: argparse.Namespace) -> None:
    """Measures and prints."""
    config = read_head_config(args)
    torch.set_num_threads(args.threads)
    sample = make_sample(args.size, args.objects)
    heads = [build_head(config, kind, args.size) for kind in HEADS]
    lines = [HEADER, ['---', *['---:'] * 3]]
    for name, work in (('prediction', predict), ('training step', train)):
        works = [partial(work, head, sample) for head in heads]
        both = time_in_turn(works, repeat=args.repeat, warmup=args.warmup)
        for unit, times in zip(('ms', 'processor ms'), both, strict=True):
            cells = [f'{np.median(own):.0f}' for own in times]
            lines.append([f'{name} ({unit})', *cells, f'{np.median(times[0] / times[1]):.2f}'])
    peaks = [
        in_fresh_process(measure_peak, config, kind, args.size, args.objects) for kind in HEADS
    ]
    cells = [f'{peak / MEGA:.0f}' for peak in peaks]
    lines.append(['peak of a training step (MB)', *cells, f'{peaks[0] / peaks[1]:.2f}'])
    table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    title = (
        f'torch {torch.__version__} on the CPU, {args.threads} thread(s), one image of {args.size} x {args.size} with '
        f'{args.objects} objects, {config.num_queries} queries, float32, {args.repeat} rounds, heads in turn.'
    )
    publish(f'{title}\n\n{table}', args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(benchmark, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
