"""Convert a checkpoint of another project: `convert_weights.py SRC DST --source ultralytics`.

Writes DST, a checkpoint that loads with `weights_only=True`, and beside it a config with the same
stem that fits it; older files of these names are replaced. No code of the other project is imported
or executed. Exit code 2 if the file cannot be converted. Converted weights keep the licence of
their source.

The other way round, `convert_weights.py SRC DST --to deim` writes a checkpoint of mmext as the other
project has them; an older DST is replaced.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mmext.models.common.weight_files import read_weight_file
from mmext.models.deim import weights as deim_weights
from mmext.models.deim.parts import Detected
from mmext.models.yolo.variants import Variant
from mmext.models.yolo.weights import convert_state_dict, read_published
from mmext.tools.command import add_traceback_argument, run_command
from mmext.tools.conversion import Converted, Exported, count_lines, shortened
from mmext.tools.convert_segformer import SEGFORMER_SOURCES, SEGFORMER_TARGETS
from mmext.version import __version__

# Epochs in the names of the shipped configs, which are the published schedules.
_SEGMENT_EPOCHS = {'v8': 500, 'v11': 600}
_SEGMENT_CONFIG = '''"""The model that fits the converted weights beside this file: {title}.

With another number of classes than 80, point the data sets at your own before testing or training.
"""

_base_ = 'mmext::yolo/{base}'
load_from = {{checkpoint}}
model = dict(bbox_head=dict(num_classes={num_classes}, num_prototypes={num_prototypes}))
'''

_DEIM_CONFIG = '''"""The model that fits the converted weights beside this file: {title}.

With another number of classes than 80, point the data sets at your own before testing or training.
Training starts from these weights, so it needs no file for the backbone.
"""

_base_ = 'mmext::deim/deimv2_{name}_coco.py'
load_from = {{checkpoint}}
model = dict(backbone=dict(checkpoint=None), decoder=dict(num_classes={num_classes}))
'''


def convert_ultralytics(path: Path) -> Converted:
    """YOLOv8-seg and YOLO11-seg checkpoints, sizes n, s, m, l and x."""
    published = read_published(path)
    try:
        state_dict, conversion = convert_state_dict(published.state_dict)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    variant = conversion.variant
    meta: dict[str, Any] = variant._asdict()
    report = [
        f'{title(variant)}, {variant.num_classes} classes, {variant.num_prototypes} prototypes',
        *count_lines(conversion.mapped.values()),
        f'not needed: {", ".join(conversion.ignored) or "nothing"}',
    ]
    if len(published.class_names) == variant.num_classes:
        meta['dataset_meta'] = dict(classes=published.class_names)
    else:
        report.append(f'no class names: the file has {len(published.class_names)}')
    return Converted(state_dict, meta, segment_config(variant), report)


def convert_deim(path: Path) -> Converted:
    """DEIMv2 checkpoints of all twelve sizes: published .pth and .safetensors, and transformers' port."""
    tensors, place = read_weight_file(path)
    try:
        state_dict, conversion = deim_weights.convert_state_dict(tensors)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    detected = conversion.detected
    # Counters of batch norm are not worth a line.
    refilled = [name for name in conversion.refilled if not name.endswith('.num_batches_tracked')]
    report = [
        f'{detected.title}, {detected.num_classes} classes, names of {conversion.naming} weights',
        f'taken from: {place or "the whole file"}',
        *count_lines(state_dict),
        f'filled in: {shortened(refilled)}',
        f'not needed: {shortened(conversion.ignored)}',
    ]
    meta = dict(size=detected.name, num_classes=detected.num_classes)
    return Converted(state_dict, meta, deim_config(detected), report)


def export_deim(path: Path) -> Exported:
    """A checkpoint of `mmext.DEIM` as the published ones are, entry by entry."""
    try:
        state_dict, detected = deim_weights.revert_state_dict(read_weight_file(path).tensors)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    side = detected.variant.input_size
    report = [
        f'{detected.title}, {detected.num_classes} classes',
        f'{len(state_dict)} tensors under the published names',
        f'decoder.anchors and decoder.valid_mask are those of images of {side} x {side}',
    ]
    return Exported({'model': state_dict}, report)


# One function a source, from the path of its file; another source is one more entry.
SOURCES: dict[str, Callable[[Path], Converted]] = {
    'ultralytics': convert_ultralytics,
    'deim': convert_deim,
    **SEGFORMER_SOURCES,
}
# The same for the way back.
TARGETS: dict[str, Callable[[Path], Exported]] = {'deim': export_deim, **SEGFORMER_TARGETS}


def title(variant: Variant) -> str:
    """Name under which the model was published."""
    number = 'v8' if variant.version == 'v8' else '11'
    return f'YOLO{number}{variant.size}-seg'


def segment_config(variant: Variant) -> str:
    """Text of a config that takes all but the head's sizes from a shipped one."""
    name = f'{variant.version}{variant.size}'
    return _SEGMENT_CONFIG.format(
        title=title(variant),
        base=f'segment_{name}_8xb16-{_SEGMENT_EPOCHS[variant.version]}e_coco.py',
        num_classes=variant.num_classes,
        num_prototypes=variant.num_prototypes,
    )


def deim_config(detected: Detected) -> str:
    """Text of a config that takes all but the number of classes from a shipped one."""
    return _DEIM_CONFIG.format(
        title=detected.title, name=detected.name, num_classes=detected.num_classes
    )


def convert(source: str, src: Path, dst: Path) -> list[str]:
    """Read, convert, write the checkpoint and its config.

    Returns:
        Lines of the report.

    Raises:
        OSError: A file that cannot be read or written.
        ValueError: A file that cannot be converted.
    """
    config_path = dst.with_suffix('.py')
    if dst.suffix in ('.py', '.safetensors') or dst.resolve() == src.resolve():
        raise ValueError(f'{dst} cannot be written: give a new file that ends in .pth')
    converted = SOURCES[source](src)
    meta = dict(source=source, source_file=src.name, mmext_version=__version__, **converted.meta)
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(meta=meta, state_dict=converted.state_dict), dst)
    # mmengine puts the config's own folder in the place of fileDirname, so both files can be moved
    # together.
    checkpoint = repr('{{ fileDirname }}/' + dst.name)
    config_path.write_text(converted.config.format(checkpoint=checkpoint), encoding='utf-8')
    return [
        f'{src}: {converted.report[0]}',
        *(f'  {line}' for line in converted.report[1:]),
        f'written: {dst}, {config_path}',
        'The converted weights keep the licence of their source.',
    ]


def export(target: str, src: Path, dst: Path) -> list[str]:
    """Read, convert back, write the checkpoint.

    Returns:
        Lines of the report.

    Raises:
        OSError: A file that cannot be read or written.
        ValueError: A file that cannot be converted.
    """
    if dst.resolve() == src.resolve():
        raise ValueError(f'{dst} cannot be written: give a new file')
    content, report = TARGETS[target](src)
    write_checkpoint(content, dst, target)
    return [f'{src}: {report[0]}', *(f'  {line}' for line in report[1:]), f'written: {dst}']


def write_checkpoint(content: dict[str, Any], dst: Path, target: str) -> None:
    """Write tensors by name as safetensors where DST is called so, everything else as torch does.

    Raises:
        ValueError: DST ends in .safetensors, and the other project has more than tensors by name in its checkpoints.
    """
    is_flat = all(isinstance(value, torch.Tensor) for value in content.values())
    if dst.suffix == '.safetensors' and not is_flat:
        raise ValueError(
            f'{dst} cannot be written: checkpoints for {target} hold more than tensors by name, here under '
            f'{", ".join(content)}. Give a name that ends in .pth.'
        )
    dst.parent.mkdir(parents=True, exist_ok=True)
    if dst.suffix != '.safetensors':
        torch.save(content, dst)
        return
    # Tensors that share memory are refused; transformers wants to be told whose they are.
    own = {name: value.detach().clone().contiguous() for name, value in content.items()}
    save_file(own, dst, metadata=dict(format='pt'))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', type=Path, help='checkpoint of the other project')
    parser.add_argument(
        'dst',
        type=Path,
        help='checkpoint to write, ending in .pth; with --to segformer-hf also .safetensors',
    )
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument(
        '--source', choices=sorted(SOURCES), help='the project that SRC is from; DST is for mmext'
    )
    direction.add_argument(
        '--to', choices=sorted(TARGETS), help='the project that DST is for; SRC is of mmext'
    )
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Converts as the command line says, and prints the report."""
    if args.to:
        lines = export(args.to, args.src, args.dst)
    else:
        lines = convert(args.source, args.src, args.dst)
    print('\n'.join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(run, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
