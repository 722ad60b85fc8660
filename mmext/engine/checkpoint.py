"""Checkpoints: read without executing anything from them, and loaded with a report.

A .pth file is a pickle, and unpickling can run any code. torch's `weights_only=True` builds only tensors and
plain containers; mmengine's checkpoints need a few classes more, listed here. onedl-mmengine falls back to
full unpickling, with one line in the log, when that fails: `install_safe_loading` ends this.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, cast

import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

# How torch names what it does not build: a name of the pickle, a function to call, a class to create.
FOREIGN = re.compile(
    r'(?:GLOBAL|unrecognized function|Can only (?:create|build)[^\n]*but got) ([^\s(]+)'
)
CONVERT_COMMAND = 'python tools/convert_weights.py SRC DST --source ultralytics'


def _history_method(owner: object, name: str) -> object:
    """Stands in for `getattr` in mmengine's log histories, which pickle their own methods by it.

    The real `getattr` would hand any attribute of any allowed class to a forged file.
    """
    if owner is not HistoryBuffer or name.startswith('_'):
        raise UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr({owner!r}, {name!r})')
    return getattr(HistoryBuffer, name)


def _safe_globals() -> list[Any]:
    """What a checkpoint of mmengine may contain besides tensors: log histories and numpy values."""
    multiarray = import_module('numpy._core.multiarray')
    numpy_builders = [
        # numpy 1 called the same functions by another module name.
        (getattr(multiarray, function), f'numpy.{core}.multiarray.{function}')
        for core in ('core', '_core')
        for function in ('_reconstruct', 'scalar')
    ]
    dtypes = [type(np.dtype(kind)) for kind in np.sctypeDict.values()]
    return [
        HistoryBuffer,
        (_history_method, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *dtypes,
        *numpy_builders,
    ]


def _refusal(path: str, error: Exception) -> ValueError:
    """The error for a file that torch could not read: foreign classes, or damage."""
    foreign = FOREIGN.search(str(error))
    if foreign:
        return ValueError(
            f'checkpoint {path} is refused: it asks for {foreign.group(1)}, and building that '
            'would execute code from the file; convert it to plain weights first, without '
            f'executing it: {CONVERT_COMMAND}'
        )
    # torch's own text advises to unpickle without protection; it stays in the traceback.
    return ValueError(
        f'checkpoint {path} cannot be read: it is truncated, or no PyTorch checkpoint '
        f'({type(error).__name__}); copy or download it again'
    )


def read_checkpoint(path: str | PathLike[str], map_location: Any = 'cpu') -> Any:
    """Reads a checkpoint file without executing anything from it.

    Args:
        path: local file.
        map_location: as in `torch.load`.

    Returns:
        the content, for mmengine a dict with `state_dict`, `meta` and, to resume, `optimizer` and more.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, damaged, no checkpoint, or needs foreign classes.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    if file.stat().st_size == 0:
        raise ValueError(f'checkpoint {path} is empty (0 bytes); copy or download it again')
    return _load(file, str(path), map_location)


def _load(file: Any, name: str, map_location: Any) -> Any:
    with torch.serialization.safe_globals(_safe_globals()):
        try:
            return torch.load(file, map_location=map_location, weights_only=True)
        # A damaged pickle can raise anything: RuntimeError, EOFError, KeyError, UnicodeDecodeError ...
        except Exception as error:
            raise _refusal(name, error) from error


def _read_for_mmengine(
    file: Any, map_location: Any = None, weights_only: bool | None = None
) -> Any:
    """Takes the place of mmengine's `_safe_torch_load`: a path or an open file, always the safe way."""
    if isinstance(file, (str, PathLike)):
        return read_checkpoint(file, map_location)
    return _load(file, 'from a storage server', map_location)


def _download_for_mmengine(
    url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True
) -> Any:
    """Takes the place of mmengine's `load_url`, which unpickles everything it downloads."""
    with torch.serialization.safe_globals(_safe_globals()):
        try:
            return torch.hub.load_state_dict_from_url(
                url, model_dir, map_location, progress, weights_only=True
            )
        except (UnpicklingError, RuntimeError, EOFError) as error:
            raise _refusal(url, error) from error


def install_safe_loading() -> None:
    """Makes every checkpoint that mmengine reads go through `read_checkpoint`.

    mmengine unpickles in exactly two functions; all schemes of its CheckpointLoader (files, http, s3 ...),
    the Runner, `init_cfg=dict(type='Pretrained')` and the inferencers end there. Replacing these two covers
    them all; a Runner of our own, or registering single schemes anew, would leave the other ways open.
    """
    for name in ('_safe_torch_load', 'load_url'):
        if not hasattr(mmengine_checkpoint, name):
            raise ImportError(
                f'mmengine.runner.checkpoint has no {name}: this mmengine is not the one mmext '
                'knows; install onedl-mmengine>=0.10.12,<0.11'
            )
    mmengine_checkpoint._safe_torch_load = _read_for_mmengine
    mmengine_checkpoint.load_url = _download_for_mmengine


class CheckpointReport(NamedTuple):
    """How the entries of a checkpoint fit a model.

    Attributes:
        loaded: names that fit.
        missing: names that the model has and the checkpoint has not.
        unexpected: names that the checkpoint has and the model has not.
        mismatched: name to (shape in the checkpoint, shape in the model); such entries are not loaded.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def table(self, num_names: int = 4) -> str:
        """Four lines: kind, count and the first names."""
        shapes = [f'{name} {old} -> {new}' for name, (old, new) in self.mismatched.items()]
        rows = {
            'loaded': (len(self.loaded), []),
            'missing': (len(self.missing), self.missing),
            'unexpected': (len(self.unexpected), self.unexpected),
            'mismatched': (len(shapes), shapes),
        }
        return '\n'.join(
            f'  {kind:<10} {count:>5}  {", ".join(names[:num_names])}'
            f'{", ..." if len(names) > num_names else ""}'.rstrip()
            for kind, (count, names) in rows.items()
        )


def state_dict_of(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, with or without the wrapper dict, without the prefix `module.` of DDP."""
    state_dict = checkpoint.get('state_dict', checkpoint)
    return {name.removeprefix('module.'): value for name, value in state_dict.items()}


def bare_model(model: nn.Module) -> nn.Module:
    """The model inside wrappers for distribution and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model


def compare_keys(model: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> CheckpointReport:
    """Compares names and shapes of a checkpoint with those of a model."""
    own = model.state_dict()
    common = [name for name in own if name in state_dict]
    mismatched = {
        name: (tuple(state_dict[name].shape), tuple(own[name].shape))
        for name in common
        if state_dict[name].shape != own[name].shape
    }
    return CheckpointReport(
        loaded=[name for name in common if name not in mismatched],
        missing=[name for name in own if name not in state_dict],
        unexpected=[name for name in state_dict if name not in own],
        mismatched=mismatched,
    )


def check_report(
    report: CheckpointReport, model: nn.Module, path: str, *, require_all: bool = False
) -> None:
    """Logs a report, and stops where the checkpoint does not belong to the model.

    Args:
        report: from `compare_keys`.
        model: the model, for its name and parameters.
        path: the file, for the message.
        require_all: whether every parameter must be in the checkpoint, as for testing and resuming.

    Raises:
        ValueError: if nothing fits, or not every parameter does although it must.
    """
    name = type(model).__name__
    if not report.loaded:
        raise ValueError(
            f'checkpoint {path} belongs to another model: none of its {len(report.unexpected)} '
            f'names fits {name}.\n  checkpoint: {", ".join(report.unexpected[:3])}, ...'
            f'\n  {name}: {", ".join(report.missing[:3])}, ...\nGive the checkpoint of this config.'
        )
    parameters = dict(model.named_parameters())
    absent = [key for key in (*report.missing, *report.mismatched) if key in parameters]
    if require_all and absent:
        raise ValueError(
            f'checkpoint {path} does not fit {name}: {len(absent)} of its parameters would keep '
            f'random values.\n{report.table()}\nGive the checkpoint of this config (number of '
            'classes, size and version of the model).'
        )
    level = 30 if report.missing or report.unexpected or report.mismatched else 20
    print_log(f'checkpoint {path} into {name}:\n{report.table()}', 'current', level=level)


def load_checkpoint_report(
    model: nn.Module, path: str | PathLike[str], *, require_all: bool = False
) -> CheckpointReport:
    """Loads a checkpoint file into a model and reports what fitted.

    Args:
        model: receives the weights; entries with another shape are left as they are.
        path: checkpoint file.
        require_all: whether a parameter that the file does not fill is an error.

    Returns:
        the report, which is also logged.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint` and `check_report`.
    """
    content = read_checkpoint(path)
    if not isinstance(content, Mapping):
        raise ValueError(f'checkpoint {path} holds a {type(content).__name__}, expected a dict')
    state_dict = state_dict_of(content)
    model = bare_model(model)
    report = compare_keys(model, state_dict)
    check_report(report, model, str(path), require_all=require_all)
    model.load_state_dict({name: state_dict[name] for name in report.loaded}, strict=False)
    return report
