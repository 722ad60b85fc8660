"""Latency and memory of DEIMv2 in its forms, side by side. A Markdown table, a row a variant and form.

    python tools/benchmark_deim.py s --threads 2
    python tools/benchmark_deim.py atto n s --train --train-batch 4 --out benchmark.md

Forms: `deploy` is the model after `switch_to_deploy()`, `eval` before it. `port` is the same size in transformers, with
torch's fused attention, and `plain` that with attention written out, products and softmax one by one; it has the sizes
s, m, l, x only, and differs from the published networks in some layers (it also projects the memory and predicts a box
for every place of it, a few per cent of the time). Weights are random. One image at a time; all forms of a variant run
in turn in every round, so that a busy moment of the machine meets all of them; ratios are medians over the rounds. Peak memory is
measured with one thread, in processes of their own, beyond what is there before: weights and images. A training step
is the forward pass, the losses and the backward pass of `--train-batch` images with 8 objects each. GFLOPs count a multiply-add
as two, in convolutions, linear layers and attention; sampling is left out.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmext.apis.memory import in_fresh_process, peak_on_cpu
from mmext.apis.profiling import count_flops, count_parameters
from mmext.models.backbones.dinov3 import ARCHS
from mmext.models.deim.parts import part_configs
from mmext.models.deim.variants import NUM_COCO_CLASSES, VARIANTS, Variant
from mmext.registry import MODELS
from mmext.tools.command import add_traceback_argument, publish, run_command

MEGA, GIGA = 10**6, 10**9
FORMS = ('plain', 'port', 'eval', 'deploy')
PORTED = tuple(name for name, own in VARIANTS.items() if own.backbone == 'dinov3_sta')
NUM_OBJECTS = 8  # in each image of a training step
HEADER = ['variant', 'form', 'parameters (M)', 'GFLOPs', 'P50 (ms)', 'P95 (ms)', 'images / s']
HEADER += ['processor P50 (ms)', 'time / plain', 'time / port', 'time / eval', 'peak of test (MB)']
TRAIN_HEADER = [
    'training images / s',
    'processor ms a training image',
    'peak of a training step (MB)',
]


class Subject(NamedTuple):
    """What is measured: enough to build it again in another process.

    Attributes:
        variant: name in `VARIANTS`.
        form: one of `FORMS`.
    """

    variant: str
    form: str

    def build(self) -> nn.Module:
        """The model in eval mode, its parameters frozen."""
        torch.manual_seed(0)
        if self.form in ('plain', 'port'):
            model = build_port(VARIANTS[self.variant], 'eager' if self.form == 'plain' else 'sdpa')
        else:
            model = MODELS.build(model_config(VARIANTS[self.variant]))
        model = model.eval().requires_grad_(False)
        if self.form == 'deploy':
            model.switch_to_deploy()  # type: ignore[operator]
        return model

    def make_images(self, count: int = 1) -> torch.Tensor:
        """(count, 3, S, S), normalised."""
        size = VARIANTS[self.variant].input_size
        return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))

    def make_training_step(self, num_images: int) -> Callable[[], None]:
        """Forward pass, losses and backward pass; the gradients stay until the next step begins."""
        torch.manual_seed(0)
        model = MODELS.build(model_config(VARIANTS[self.variant])).train()
        images = self.make_images(num_images)
        size = images.shape[-1]
        corners = torch.arange(NUM_OBJECTS)[:, None] * size / (2 * NUM_OBJECTS)
        truth = InstanceData(
            bboxes=torch.cat([corners, corners, corners + size / 4, corners + size / 4], dim=1),
            labels=torch.arange(NUM_OBJECTS),
        )
        samples = [DetDataSample(gt_instances=truth) for _ in range(num_images)]

        def step() -> None:
            model.zero_grad()
            model.parse_losses(model.loss(images, samples))[0].backward()

        return step


class Times(NamedTuple):
    """Milliseconds of every round: what a user waits, and what all threads used of the processors."""

    wall: np.ndarray
    processor: np.ndarray


def model_config(variant: Variant) -> dict[str, Any]:
    """A detector of one of the published sizes with 80 classes."""
    matcher, weights = 'DEIMMatcher', dict(mal=1.0, bbox=5.0, giou=2.0)
    if variant.encoder == 'hybrid':
        matcher, weights = 'DEIMUnionMatcher', weights | dict(fgl=0.15, ddf=1.5)
    criterion = dict(
        type='mmext.DEIMCriterion',
        matcher=dict(type=f'mmext.{matcher}', change_epoch=100),
        loss_weights=weights,
    )
    return dict(
        type='mmext.DEIM',
        **part_configs(variant, NUM_COCO_CLASSES),
        criterion=criterion,
        test_cfg=dict(max_per_img=300),
    )


def build_port(variant: Variant, attention: str) -> nn.Module:
    """The size of the variant in transformers.

    Args:
        variant: one of those with a DINOv3 backbone.
        attention: 'eager' for products and softmax one by one, 'sdpa' for torch's fused attention.
    """
    # Only here: versions of transformers before this port can run everything else.
    from transformers import Deimv2Config, Deimv2ForObjectDetection, DINOv3ViTConfig

    arch = ARCHS[variant.arch]
    channels, num_levels = variant.encoder_channels, len(variant.num_points)
    backbone = DINOv3ViTConfig(  # type: ignore[call-arg]
        image_size=variant.input_size,
        patch_size=16,
        hidden_size=arch.embed_dims,
        num_hidden_layers=12,
        num_attention_heads=arch.embed_dims // 64,
        intermediate_size=arch.mlp_channels,
        num_register_tokens=arch.num_storage_tokens,
        use_gated_mlp=arch.has_gated_mlp,
        out_indices=[index + 1 for index in arch.out_indices],
        apply_layernorm=arch.has_final_norm,
        key_bias=True,
    )
    config = Deimv2Config(  # type: ignore[call-arg]
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        num_labels=NUM_COCO_CLASSES,
        encoder_hidden_dim=channels,
        encoder_in_channels=[channels] * num_levels,
        encoder_ffn_dim=variant.encoder_ffn_channels,
        encoder_has_trailing_conv=variant.block == 'e4',
        # It computes round(hidden_expansion * channels // 2) and round(3 * depth_mult).
        hidden_expansion=(2 * variant.csp_channels + 0.5) / channels,
        depth_mult=variant.num_csp_blocks / 3,
        d_model=variant.decoder_channels,
        decoder_in_channels=[channels] * num_levels,
        decoder_ffn_dim=variant.decoder_ffn_channels,
        decoder_layers=variant.num_decoder_layers,
        decoder_n_points=list(variant.num_points),
        decoder_activation_function='silu',
        num_queries=variant.num_queries,
        reg_scale=variant.reg_scale,
        spatial_tuning_adapter_inplanes=variant.sta_channels,
    )
    config._attn_implementation = attention
    return Deimv2ForObjectDetection(config)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='benchmark_deim',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('variants', nargs='+', metavar='VARIANT', help=', '.join(VARIANTS))
    parser.add_argument(
        '--forms', nargs='+', choices=FORMS, default=list(FORMS), help='all that there are'
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
        ValueError: a variant that does not exist, or numbers that cannot be.
    """
    unknown = [name for name in args.variants if name not in VARIANTS]
    if unknown:
        raise ValueError(f'got the variant {unknown[0]!r}, expected some of {", ".join(VARIANTS)}')
    for name, lowest in (('threads', 1), ('repeat', 1), ('warmup', 0), ('train_batch', 1)):
        if getattr(args, name) < lowest:
            option = name.replace('_', '-')
            raise ValueError(f'--{option}: got {getattr(args, name)}, expected at least {lowest}')
    return [
        Subject(name, form)
        for name in args.variants
        for form in FORMS
        if form in args.forms and (form in ('eval', 'deploy') or name in PORTED)
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


def benchmark(args: argparse.Namespace) -> None:
    """Measures and prints."""
    subjects = read_subjects(args)
    torch.set_num_threads(args.threads)
    rows = []
    for name in dict.fromkeys(args.variants):
        own = [subject for subject in subjects if subject.variant == name]
        models = [subject.build() for subject in own]
        works = [
            partial(run, model, subject.make_images())
            for subject, model in zip(own, models, strict=True)
        ]
        times = time_in_turn(works, repeat=args.repeat, warmup=args.warmup)
        rows += table_rows(own, models, times)
    for subject, row in zip(subjects, rows, strict=True):
        row.append(f'{in_fresh_process(prediction_peak, subject) / MEGA:.0f}')
        row += training_cells(subject, args) if args.train else []
    header = HEADER + TRAIN_HEADER * args.train
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
