"""Time of SegFormer's forward pass, of mmseg and of transformers against mmext, side by side. A Markdown table.

    python tools/benchmark_segformer.py --size b0 --threads 1
    python tools/benchmark_segformer.py --size b2 --side 1024

mmseg's decoder and the paper's are two decoders, so that there are two pairs, each with the same random weights on both
sides; the largest difference of their logits stands in the table. Logits are those at a quarter of the image's size, of one
image. All run in turn in every round, so that a busy moment of the machine meets all; ratios are medians over the rounds.
Processor time is what all threads used; on a busy machine it says more than the time that passed.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from mmext.models.common.folding import switch_to_deploy
from mmext.models.common.mit_names import Naming
from mmext.models.segformer.weights import (
    DEPTHS,
    Detected,
    part_configs,
    revert_state_dict,
)
from mmext.registry import MODELS
from mmext.tools.benchmark_queries import time_in_turn
from mmext.tools.command import add_traceback_argument, publish, run_command

SIZES = {size: depths for depths, size in DEPTHS.items()}
_UNITS = ['(ms)', '(processor ms)', 'faster']
HEADER = ['', *(f'{part} {unit}' for part in ('whole', 'decoder') for unit in _UNITS), 'difference']


class Network(NamedTuple):
    """An encoder and a decoder.

    Attributes:
        encode: image (1, 3, H, W) to maps, finest first.
        decode: maps to logits.
        parts: both as modules.
    """

    encode: Callable[[Tensor], Sequence[Tensor]]
    decode: Callable[[Sequence[Tensor]], Tensor]
    parts: nn.ModuleDict

    def predict(self, image: Tensor) -> Tensor:
        """Image to logits."""
        return self.decode(self.encode(image))


def build_own(detected: Detected) -> Network:
    """mmext's parts with random weights."""
    torch.manual_seed(0)
    parts = {name: MODELS.build(cfg) for name, cfg in part_configs(detected).items()}
    return Network(parts['backbone'], parts['decode_head'], nn.ModuleDict(parts).eval())


def build_mmseg(detected: Detected, own: Network) -> Network:
    """mmseg's parts with the weights of `own`."""
    configs: dict[str, dict[str, Any]] = part_configs(detected)
    settings = {n: v for n, v in configs['backbone'].items() if not n.endswith('_eps')}
    encoder = MODELS.build(
        settings | dict(type='mmseg.MixVisionTransformer', num_heads=(1, 2, 5, 8))
    )
    decoder = MODELS.build(configs['decode_head'] | dict(type='mmseg.SegformerHead'))
    parts = nn.ModuleDict(dict(backbone=encoder, decode_head=decoder)).eval()
    parts.load_state_dict(own.parts.state_dict())
    return Network(encoder, decoder, parts)


def build_transformers(detected: Detected, own: Network) -> Network:
    """The port in transformers with the weights of `own`, and attention as it is without a choice."""
    settings: dict[str, Any] = dict(
        depths=list(detected.num_layers),
        hidden_sizes=[detected.embed_dims * heads for heads in (1, 2, 5, 8)],
        decoder_hidden_size=detected.channels,
        num_labels=detected.num_classes,
        attn_implementation='eager',
    )
    model = SegformerForSemanticSegmentation(SegformerConfig(**settings)).eval()
    model.load_state_dict(revert_state_dict(own.parts.state_dict(), 'hf-module')[0])
    parts = nn.ModuleDict(dict(backbone=model.segformer, decode_head=model.decode_head))

    def encode(image: Tensor) -> Sequence[Tensor]:
        return model.segformer(image, output_hidden_states=True).hidden_states

    return Network(encode, model.decode_head, parts)


def build_pairs(args: argparse.Namespace) -> dict[str, list[tuple[str, Network]]]:
    """Per pair the other project's network, and ours before and in deploy form."""
    depths = SIZES[args.size]
    width = 256 if args.size in ('b0', 'b1') else 768
    in_mmseg = Detected(Naming('mmseg', 'backbone.'), 'mmseg', *depths, 256, args.classes)
    in_paper = Detected(Naming('hf', ''), 'paper', *depths, width, args.classes)
    pairs = {}
    for name, detected, build in (
        ('mmseg', in_mmseg, build_mmseg),
        ('transformers', in_paper, build_transformers),
    ):
        own, deployed = build_own(detected), build_own(detected)
        switch_to_deploy(deployed.parts)
        kind = type(own.parts['decode_head']).__name__
        theirs = build(detected, own)
        pairs[name] = [(name, theirs), (f'mmext {kind}', own), (f'{kind}, deployed', deployed)]
    return pairs


def measure_pair(networks: Sequence[tuple[str, Network]], args: argparse.Namespace) -> list[list]:
    """Rows of the table for one pair; the first network is what the others are compared with."""
    image = torch.randn(1, 3, args.side, args.side, generator=torch.Generator().manual_seed(0))
    features = [network.encode(image) for _, network in networks]
    logits = [network.predict(image) for _, network in networks]
    works: list[Callable[[], object]] = []
    for (_, network), maps in zip(networks, features, strict=True):
        works += [partial(network.predict, image), partial(network.decode, maps)]
    times = time_in_turn(works, repeat=args.repeat, warmup=args.warmup)
    rows = []
    for index, (name, _) in enumerate(networks):
        cells = [name]
        for part in range(2):  # the whole and the decoder
            waited, used = times[:, 2 * index + part]
            cells += [f'{np.median(waited):.1f}', f'{np.median(used):.1f}']
            cells.append(f'{np.median(times[0, part] / waited):.2f}')
        rows.append([*cells, f'{(logits[index] - logits[0]).abs().max():.1e}'])
    return rows


@torch.inference_mode()
def benchmark(args: argparse.Namespace) -> None:
    """Measures and prints."""
    for name, lowest in (
        ('side', 32),
        ('classes', 2),
        ('threads', 1),
        ('repeat', 1),
        ('warmup', 0),
    ):
        if getattr(args, name) < lowest:
            raise ValueError(f'--{name}: got {getattr(args, name)}, expected at least {lowest}')
    torch.set_num_threads(args.threads)
    with torch.inference_mode(False):
        pairs = build_pairs(args)
    lines = [HEADER, ['---', *['---:'] * (len(HEADER) - 1)]]
    for networks in pairs.values():
        lines += measure_pair(networks, args)
    table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    title = (
        f'SegFormer {args.size.upper()}, {args.classes} classes, one image of {args.side} x {args.side}, torch '
        f'{torch.__version__} on the CPU, {args.threads} thread(s), float32, {args.repeat} rounds in turn.'
    )
    publish(f'{title}\n\n{table}', args.out)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='benchmark_segformer',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--size', choices=sorted(SIZES), default='b0', help='of the model (b0)')
    parser.add_argument('--side', type=int, default=512, help='of the image (512)')
    parser.add_argument('--classes', type=int, default=150, help='of the classifier (150)')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch (1)')
    parser.add_argument('--repeat', type=int, default=7, help='rounds that are timed (7)')
    parser.add_argument('--warmup', type=int, default=1, help='rounds before them (1)')
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='write the table here too')
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(benchmark, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
