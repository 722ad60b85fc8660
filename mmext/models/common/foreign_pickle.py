"""Reading pickled checkpoints of other projects without importing or executing any of their code.

Some projects save whole pickled modules rather than tensors. `torch.load(weights_only=True)`
refuses such files, and `weights_only=False` imports their classes and runs whatever the file says.
Here every name in the pickle except a few harmless ones is replaced by an inert class that only
stores what it is given, so the tensors can be taken out of the module tree afterwards.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

_ZIP_MAGIC = b'PK\x03\x04'

_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch', 'Size'): torch.Size,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    ('builtins', 'set'): set,
    ('__builtin__', 'set'): set,  # protocol 2, which torch uses, writes Python 2's names
}


class InertObject:
    """Stands for any class or function of a foreign pickle: takes everything, does nothing.

    Attributes of the pickled object are kept in `__dict__`. Items of pickled containers are not
    kept.
    """

    def __new__(cls, *args: object, **kwargs: object) -> 'InertObject':
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass

    def add(self, item: object) -> None:
        pass


class _InertUnpickler(pickle.Unpickler):
    """Unpickler that knows tensors and plain containers and makes `InertObject`s of the rest."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type(name, (InertObject,), {'__module__': module})


# torch.load takes a module for its `pickle_module` and, for zip files, uses its `Unpickler` only.
# The missing `load` makes torch's other, older formats fail rather than fall back to plain pickle.
_PICKLE_MODULE = ModuleType('inert_pickle')
_PICKLE_MODULE.Unpickler = _InertUnpickler  # type: ignore[attr-defined]


def load_inert(path: str | Path) -> Any:
    """Load a torch checkpoint on the CPU, with `InertObject`s for everything but tensors.

    Args:
        path: A file written by `torch.save` of torch 1.6 or later (a zip file).

    Returns:
        The pickled object: numbers, strings, lists, dicts, tensors as they are, the rest inert.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is truncated, damaged, or no checkpoint. The message names the file.
    """
    path = Path(path)
    _check_zip(path)
    try:
        return torch.load(
            path, map_location='cpu', weights_only=False, pickle_module=_PICKLE_MODULE
        )
    # A hostile or damaged pickle can raise anything whatever; the reason is kept in the message.
    except Exception as error:
        reason = str(error).partition('\n')[0]
        raise ValueError(
            f'{path} cannot be read as a checkpoint ({type(error).__name__}: {reason}). '
            'Download or save the file again.'
        ) from error


def module_state(module: object) -> dict[str, Tensor]:
    """State dict of an inert module tree: what `module.state_dict()` would have returned.

    Args:
        module: An `InertObject` that was pickled from an `nn.Module`.

    Returns:
        Parameters and persistent buffers by their dotted names.

    Raises:
        ValueError: Something in the tree is not what an `nn.Module` holds there.
    """
    return dict(_walk(module, '', frozenset()))


def _walk(module: object, prefix: str, above: frozenset[int]) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(module, InertObject):
        raise ValueError(f'{prefix or "the model"} is not a module but {type(module).__name__}')
    if id(module) in above:
        raise ValueError(f'{prefix} contains itself')
    attributes = vars(module)
    transient = attributes.get('_non_persistent_buffers_set', ())
    for kind in ('_parameters', '_buffers'):
        for name, value in _table(attributes, kind, prefix).items():
            if value is None or (kind == '_buffers' and name in transient):
                continue
            if not isinstance(value, Tensor):
                raise ValueError(f'{prefix}{name} is not a tensor but {type(value).__name__}')
            yield f'{prefix}{name}', value
    for name, child in _table(attributes, '_modules', prefix).items():
        if child is not None:
            yield from _walk(child, f'{prefix}{name}.', above | {id(module)})


def _table(attributes: dict[str, Any], kind: str, prefix: str) -> dict[str, Any]:
    table = attributes.get(kind, {})
    if not isinstance(table, dict):
        raise ValueError(f'{prefix}{kind} is not a dict but {type(table).__name__}')
    return table


def _check_zip(path: Path) -> None:
    """Refuse what torch would hand to another, unsafe reader, and files with damaged members."""
    with path.open('rb') as file:
        magic = file.read(len(_ZIP_MAGIC))
    if not magic:
        raise ValueError(f'{path} is empty. Download or save the file again.')
    if magic != _ZIP_MAGIC:
        raise ValueError(
            f'{path} is not a checkpoint that torch >= 1.6 saved (it is no zip file). '
            'Give the .pt or .pth file itself.'
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f'{path} is truncated or damaged ({error}). Download or save the file again.'
        ) from error
    if damaged is not None:
        raise ValueError(f'{path} is damaged at its entry {damaged}. Download it again.')
    if any(name.endswith('constants.pkl') for name in names):
        raise ValueError(f'{path} is a TorchScript archive. Give the checkpoint it was made from.')
    if not any(name.endswith('data.pkl') for name in names):
        raise ValueError(f'{path} is a zip file without a checkpoint in it.')
