"""Peak memory of one training step against the number of objects in the image. A Markdown table, a row a config.

    python tools/benchmark_memory.py configs/yolo/segment_v8n_8xb16-500e_coco.py --mask-losses
    python tools/benchmark_memory.py configs/yolo/segment*_v8n_1xb8-12e_synthetic.py  # the three heads

One image, forward and backward pass on the CPU, each in a process of its own; the model, its weights and the ground truth
(a byte a pixel and object) are there before the measurement begins. `--mask-losses` puts each mask loss of mmext into the
config in turn, with and without `max_positives`.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from mmext.apis.memory import in_fresh_process, peak_on_cpu
from mmext.apis.model import init_model, read_config
from mmext.tools.command import add_traceback_argument, publish, run_command

MEGA = 10**6
SIDES = (16, 128)  # pixels of the network input
LOSSES = ('PointMaskLoss', 'DenseMaskLoss')


class Variant(NamedTuple):
    """A row of the table.

    Attributes:
        name: of the row.
        config: config file.
        mask_loss: config that takes the place of the mask loss; None leaves it as it is.
    """

    name: str
    config: str
    mask_loss: dict | None

    def read(self) -> Config:
        """The config with the mask loss.

        Raises:
            ValueError: it has no mask loss to replace.
        """
        cfg = read_config(self.config)
        if self.mask_loss is not None and not replace_mask_loss(cfg.model, self.mask_loss):
            raise ValueError(
                f'--mask-losses: got {self.config} without a `loss_mask` of mmext; expected one of {LOSSES} in it.'
            )
        return cfg


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='benchmark_memory',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config file')
    parser.add_argument('--objects', default='1,10,100,300', help='numbers, with commas')
    parser.add_argument('--size', type=int, default=640, help='side of the image (640)')
    parser.add_argument('--mask-losses', action='store_true', help='every mask loss in turn')
    parser.add_argument(
        '--max-positives', type=int, default=100, help='cap of --mask-losses, per image (100)'
    )
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='write the table here too')
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def read_variants(args: argparse.Namespace) -> list[Variant]:
    """The rows that the command line asks for."""
    variants = []
    for config in args.configs:
        stem = Path(config).stem
        if not args.mask_losses:
            variants.append(Variant(stem, config, None))
            continue
        for kind in LOSSES:
            loss = dict(type=f'mmext.{kind}')
            capped = loss | dict(max_positives=args.max_positives)
            variants.append(Variant(f'{stem}, {kind}', config, loss))
            variants.append(
                Variant(f'{stem}, {kind}(max_positives={args.max_positives})', config, capped)
            )
    return variants


def replace_mask_loss(config: dict | list, loss: dict) -> bool:
    """Puts a loss in the place of every `loss_mask` of mmext, however deep; whether there was any."""
    found = False
    for key, value in list(config.items() if isinstance(config, dict) else enumerate(config)):
        if isinstance(value, (dict, list)):
            own_type = str(value.get('type')) if isinstance(value, dict) else ''
            if key == 'loss_mask' and own_type.removeprefix('mmext.') in LOSSES:
                config[key] = dict(loss)
                found = True
            else:
                found |= replace_mask_loss(value, loss)
    return found


def make_truth(num_objects: int, size: int) -> DetDataSample:
    """An image's ground truth: discs of 16 to 128 pixels at random places, always the same, all of the first class."""
    rng = np.random.default_rng(0)
    sides = np.minimum(rng.integers(*SIDES, (num_objects, 2), endpoint=True), size)
    corners = (rng.random((num_objects, 2)) * (size - sides)).astype(int)
    masks = np.zeros((num_objects, size, size), dtype=np.uint8)
    rows, columns = np.ogrid[:size, :size]
    for mask, (x, y), (width, height) in zip(masks, corners, sides, strict=True):
        across, down = (columns + 0.5 - x) / width - 0.5, (rows + 0.5 - y) / height - 0.5
        mask[across**2 + down**2 <= 0.25] = 1
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    sample = DetDataSample(
        metainfo=dict(img_id=0, img_shape=(size, size), ori_shape=(size, size), scale_factor=(1, 1))
    )
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.from_numpy(boxes)),
        labels=torch.zeros(num_objects, dtype=torch.long),
        masks=BitmapMasks(masks, size, size),
    )
    return sample


def training_step(model: nn.Module, sample: DetDataSample, size: int) -> None:
    """Forward and backward pass."""
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]), True)  # type: ignore[operator]
    losses = model(**data, mode='loss')
    model.parse_losses(losses)[0].backward()  # type: ignore[operator]


def measure(variant: Variant, objects: Sequence[int], size: int) -> list[int]:
    """Peak memory of a step for each number of objects, in bytes. To be called in a fresh process."""
    cfg = variant.read()
    model = init_model(cfg).train()
    samples = [make_truth(number, size) for number in objects]
    return [peak_on_cpu(partial(training_step, model, sample, size)) for sample in samples]


def benchmark(args: argparse.Namespace) -> None:
    """Measures and prints."""
    objects = read_numbers(args.objects)
    variants = read_variants(args)
    for variant in variants:
        variant.read()  # mistakes before minutes of measuring
    lines = [
        ['peak of a training step (MB), objects:', *map(str, objects)],
        ['---', *['---:'] * len(objects)],
    ]
    for variant in variants:
        peaks = in_fresh_process(measure, variant, objects, args.size)
        lines.append([variant.name, *(f'{peak / MEGA:.0f}' for peak in peaks)])
    table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    publish(table, args.out)


def read_numbers(text: str) -> list[int]:
    """'1,10' -> [1, 10].

    Raises:
        ValueError: not numbers, or below 0.
    """
    words = text.split(',')
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f'--objects: got {text!r}, expected numbers with commas such as 1,10,100')
    return [int(word) for word in words]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(benchmark, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
