"""SegFormer for `convert_weights`: checkpoints of NVlabs, transformers and mmseg, and back."""

from functools import partial
from pathlib import Path

from mmext.models.common.weight_files import read_weight_file
from mmext.models.segformer import weights
from mmext.models.segformer.weights import Detected, part_configs
from mmext.tools.conversion import Converted, Exported, count_lines, shortened

# Names on the command line, and the sources that they mean.
PROJECTS = {
    'segformer-nvlabs': ('nvlabs',),
    'segformer-hf': ('hf', 'hf-module'),
    'segformer-mmseg': ('mmseg',),
}
_CONFIG = '''"""The model that fits the converted weights beside this file: {title}.

With another number of classes than 150, point the data sets at your own before testing or training.
"""

_base_ = 'mmext::segformer/segformer_mit-{base}_8xb2-160k_ade20k-512x512.py'
load_from = {{checkpoint}}
model = dict(
    # The weights were trained with these epsilons of the norms.
    backbone=dict(
        checkpoint=None,
        embed_dims={backbone[embed_dims]},
        num_layers={backbone[num_layers]},
        patch_eps={backbone[patch_eps]},
        block_eps={backbone[block_eps]},
        stage_eps={backbone[stage_eps]},
    ),
    decode_head=dict(
        _delete_=True,
{head}
    ),
)
'''


def convert_segformer(project: str, path: Path) -> Converted:
    """Checkpoints of whole SegFormers, B0 to B5 or of one's own size.

    Args:
        project: a key of `PROJECTS`.
        path: of the checkpoint.

    Raises:
        ValueError: The file is of another project, or cannot be converted.
    """
    tensors, place = read_weight_file(path)
    try:
        state_dict, conversion = weights.convert_state_dict(tensors)
        detected = conversion.detected
        if detected.naming.source not in PROJECTS[project]:
            raise ValueError(
                f'got the names of {detected.naming.source}, expected those of {" or ".join(PROJECTS[project])}; use '
                f'--source {_project_of(detected.naming.source)}'
            )
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    report = [
        f'{detected.title}, {detected.num_classes} classes, names of {detected.naming.source}',
        f'taken from: {place or "the whole file"}',
        *count_lines(state_dict),
        f'filled in: {shortened(conversion.refilled)}',
        f'not needed: {shortened(conversion.ignored)}',
    ]
    meta = dict(size=detected.size, num_classes=detected.num_classes, decoder=detected.decoder)
    return Converted(state_dict, meta, segformer_config(detected), report)


def export_segformer(project: str, path: Path) -> Exported:
    """A checkpoint of an mmext SegFormer as the other project reads it, entry by entry."""
    source = PROJECTS[project][0]
    try:
        tensors, detected = weights.revert_state_dict(read_weight_file(path).tensors, source)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    report = [
        f'{detected.title}, {detected.num_classes} classes',
        f'{len(tensors)} tensors under the names of {source}',
    ]
    if source != 'hf':
        return Exported({'state_dict': tensors}, report)
    widths = [detected.embed_dims * heads for heads in (1, 2, 5, 8)]
    settings = (
        f'depths={list(detected.num_layers)}, hidden_sizes={widths}, decoder_hidden_size={detected.channels}, '
        f'num_labels={detected.num_classes}'
    )
    report.append(
        'from_pretrained reads it as pytorch_model.bin, or as model.safetensors where DST ends so, beside '
        f'SegformerConfig({settings})'
    )
    return Exported(dict(tensors), report)


def segformer_config(detected: Detected) -> str:
    """Text of a config that takes the data and the schedule from a shipped one, and states the rest."""
    parts = part_configs(detected)
    lines = [f'        {name}={value!r},' for name, value in parts['decode_head'].items()]
    # The place of the checkpoint is filled in later, so that braces of dicts must be doubled now.
    head = '\n'.join(lines).replace('{', '{{').replace('}', '}}')
    return _CONFIG.format(
        title=f'{detected.title}, {detected.num_classes} classes',
        base=detected.size or 'b0',
        backbone=parts['backbone'],
        head=head,
    )


def _project_of(source: str) -> str:
    return next(project for project, sources in PROJECTS.items() if source in sources)


SEGFORMER_SOURCES = {project: partial(convert_segformer, project) for project in PROJECTS}
SEGFORMER_TARGETS = {project: partial(export_segformer, project) for project in PROJECTS}
