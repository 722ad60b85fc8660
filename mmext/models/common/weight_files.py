"""Tensors in the weight files of other projects, and whether they fill a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Size, Tensor

from mmext.models.common.foreign_pickle import InertObject, load_inert, module_state

# Where projects put the weights inside of a checkpoint, the most wanted first: a moving average is what they test.
_PLACES = ('ema.module', 'ema', 'model', 'state_dict')
_MAX_PROBLEMS = 8


class WeightFile(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: under the names of the file, without the prefix `module.` of distributed training.
        place: where in the file they were, 'ema.module' for example; '' for a file of nothing but tensors.
    """

    tensors: dict[str, Tensor]
    place: str


def read_weight_file(path: str | Path) -> WeightFile:
    """Read the tensors of a checkpoint without importing or executing anything from it.

    Args:
        path: A .safetensors file, or a file written by `torch.save` of torch 1.6 or later.

    Returns:
        The tensors in the precision of the file, those of the moving average where there is one.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is truncated, damaged, or holds no weights.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f'weights {path} do not exist; give the path of a file')
    if file.suffix == '.safetensors':
        return WeightFile(_read_safetensors(file), '')
    content = load_inert(file)
    for place in _PLACES:
        tensors = _tensors_in(_look_up(content, place))
        if tensors:
            return WeightFile(tensors, place)
    tensors = _tensors_in(content)
    if not tensors:
        found = f'the entries {", ".join(map(str, content))}' if isinstance(content, dict) else ''
        raise ValueError(
            f'{path} holds no weights: got {found or f"a {type(content).__name__}"}, expected a state dict, alone or '
            f'as {", ".join(_PLACES)}. Give the checkpoint of a model.'
        )
    return WeightFile(tensors, '')


def check_complete(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Size],
    *,
    unknown: list[str],
    model: str,
) -> None:
    """Each tensor must be used and each weight be filled, in its shape; what is wrong is listed.

    Args:
        tensors: Converted ones.
        expected: Shape of each entry of the model's state dict.
        unknown: Names in the file that have no place in the model.
        model: Its name, for the message.

    Raises:
        ValueError: Something is missing, of another shape, or not part of the model.
    """
    problems = [f'{name}: not part of the model' for name in unknown]
    problems += [f'{name}: not part of the model' for name in tensors if name not in expected]
    problems += [f'{name}: missing' for name in expected if name not in tensors]
    problems += [
        f'{name}: got {list(tensors[name].shape)}, expected {list(shape)}'
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        listed = '; '.join(problems[:_MAX_PROBLEMS])
        num_more = len(problems) - _MAX_PROBLEMS
        more = f'; and {num_more} more' if num_more > 0 else ''
        raise ValueError(f'the tensors do not fit {model}: {listed}{more}')


def check_finite(tensors: Mapping[str, Tensor], *, model: str) -> None:
    """Every weight must be a number.

    Raises:
        ValueError: Infinity or NaN; names the first entries that hold them.
    """
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        more = f' and {len(broken) - 3} more' if len(broken) > 3 else ''
        raise ValueError(
            f'{model}: {", ".join(broken[:3])}{more} are not finite: the training went wrong, or began without the '
            'weights of the backbone; give another checkpoint'
        )


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(file)
    # SafetensorError for a damaged header, OSError for a folder and the like.
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f'{file} cannot be read as safetensors ({error}). Download or save the file again.'
        ) from error
    if not tensors:
        raise ValueError(f'{file} holds no weights. Give the file of a model.')
    return _without_wrapper(tensors)


def _look_up(content: Any, place: str) -> Any:
    for key in place.split('.'):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _tensors_in(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict or of a pickled module; {} if it is neither."""
    if isinstance(content, InertObject):
        return module_state(content) if '_modules' in vars(content) else {}
    if not isinstance(content, Mapping):
        return {}
    return _without_wrapper({n: t for n, t in content.items() if isinstance(t, Tensor)})


def _without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix('module.'): tensor for name, tensor in tensors.items()}


def transformers_folder(folder: str | Path, *, also: str = '') -> Path:
    """The folder of a published model of transformers, `~` read.

    Args:
        folder: its path.
        also: end of the message: what else would help.

    Raises:
        FileNotFoundError: there is no folder with a config.json.
    """
    path = Path(folder).expanduser()
    if not (path / 'config.json').is_file():
        raise FileNotFoundError(
            f'{folder} is no folder with a config.json. Nothing is downloaded: get the folder of a model of transformers, as '
            f'save_pretrained writes it, and give its path{also}'
        )
    return path
