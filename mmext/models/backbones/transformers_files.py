"""Folders of published models of transformers: their weights, and the images that these were trained on."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log
from safetensors import SafetensorError
from torch import nn

from mmext.models.common.weight_files import check_finite, transformers_folder

_MAX_NAMES = 5
PREPROCESSOR = 'preprocessor_config.json'


class PixelRange(NamedTuple):
    """What a network was trained to see: (pixel - mean) / std, pixels in [0, 255].

    Attributes:
        mean: of red, green and blue.
        std: of the same.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_pixel_range(folder: str) -> PixelRange | None:
    """The normalisation of a published model; None where its folder does not tell.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(folder).expanduser() / PREPROCESSOR
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        # As the image processors of transformers count: rescaled, then normalised.
        scale = content.get('rescale_factor', 1 / 255) if content.get('do_rescale', True) else 1.0
        normalizes = content.get('do_normalize', True)
        if normalizes and 'image_mean' not in content:
            return None
        mean, std = (
            tuple(float(value) / scale for value in values)
            for values in (
                (content['image_mean'], content['image_std'])
                if normalizes
                else ((0.0,) * 3, (1.0,) * 3)
            )
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'{path} cannot be read ({type(error).__name__}: {error}), expected JSON with image_mean and image_std of '
            'three numbers each. Get the file again, or remove it.'
        ) from error
    return PixelRange(mean, std)


def fill_network(network: nn.Module, folder: str, *, may_miss: frozenset[str], new: str) -> None:
    """Copy published weights into a backbone and report it; nothing is copied where something is wrong.

    Args:
        network: backbone of transformers.
        folder: `config.json` and the weights, in one file or several, of a backbone or of a model around one.
        may_miss: parameters that do nothing.
        new: part of the names of parameters that published models need not have.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no readable weights, entries are missing, of another shape or not finite.
    """
    path = transformers_folder(folder)
    name = type(network).__name__
    try:
        filled, report = type(network).from_pretrained(  # type: ignore[attr-defined]
            path,
            config=network.config,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    # No file of weights, one of several is missing, a damaged file: each has a message of its own.
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(
            f'checkpoint {folder} cannot be read into a {name} ({type(error).__name__}: {error}). Expected '
            'model.safetensors or pytorch_model.bin, or all their parts with the index; get the folder again.'
        ) from error
    missing = [str(entry) for entry in report['missing_keys'] if str(entry) not in may_miss]
    faults = [entry for entry in missing if new not in entry]
    mismatched = [_name_of(entry) for entry in report['mismatched_keys']]
    if faults or mismatched:
        raise ValueError(
            f'checkpoint {folder} does not fill the {name}: {len(faults)} entries are missing and {len(mismatched)} of '
            f'another shape, such as {(faults + mismatched)[0]}. Give the folder of this model, or change config; '
            'nothing was loaded.'
        )
    state = filled.state_dict()
    check_finite(state, model=f'checkpoint {folder}')
    network.load_state_dict(state)
    _report(folder, len(state), missing, sorted(map(str, report['unexpected_keys'])))


def _name_of(entry: Any) -> str:
    return str(entry[0] if isinstance(entry, (tuple, list)) else entry)


def _report(folder: str, count: int, new: list[str], unused: list[str]) -> None:
    text = f'checkpoint {folder}: {count - len(new)} entries are filled'
    for names, what in ((new, 'new, norms of the maps'), (unused, 'not used')):
        if names:
            more = ', ...' * (len(names) > _MAX_NAMES)
            text += f'; {len(names)} {what}: {", ".join(names[:_MAX_NAMES])}{more}'
    print_log(text, 'current', level=logging.INFO)
