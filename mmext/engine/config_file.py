"""Reading a config file, with errors that say what is wrong in which file."""

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmext.engine.config_options import check_options


def load_config_file(path: str | Path) -> Config:
    """Reads a config file and the files it inherits from.

    Raises:
        FileNotFoundError: the config, or one that it or its bases name in `_base_`, does not exist.
        ValueError: it is a folder, or a program that fails.
    """
    if Path(path).is_dir():
        raise ValueError(f'config {path} is a folder; give a file')
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist')
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        # mmengine names the missing file, but not the config that asks for it.
        complaint = _complaint_about_bases(str(path))
        if complaint is None:
            raise
        raise FileNotFoundError(complaint) from error
    except SyntaxError as error:
        raise ValueError(_complaint_about_syntax(str(path)) or f'config {path}: {error}') from error
    # A config is a program, and can fail in any way.
    except Exception as error:
        raise ValueError(
            f'config {_place(path, error)}: {type(error).__name__}: {error}'
        ) from error


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Changes settings of a config.

    Args:
        cfg: the config.
        options: paths of settings, such as 'train_cfg.max_epochs' -> their values.

    Raises:
        ValueError: a path does not lead to a setting, or to one that changes nothing (`check_options`).
    """
    check_options(cfg, options, list(_files(cfg.filename)) if cfg.filename else [])
    for key, value in options.items():
        try:
            cfg.merge_from_dict({key: value})
        # What mmengine raises for a path through something that is no dict, or behind the end of a list.
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f'--cfg-options {key}={value}: {error}') from error


def _place(path: str | Path, error: Exception) -> str:
    """Which config, and which line of it, raised an error; `path` where it was none of them."""
    lines = [
        f'{frame.f_code.co_filename}, line {number}'
        for frame, number in traceback.walk_tb(error.__traceback__)
        # mmengine runs the text of a config under its file name, with its bases among the globals.
        if '_base_' in frame.f_globals
    ]
    return lines[-1] if lines else str(path)


def _complaint_about_syntax(config: str) -> str | None:
    """The first mistake in the syntax of a config or of its bases: mmengine does not say in which."""
    for path in _files(config):
        if path.endswith('.py'):
            try:
                compile(Path(path).read_text(encoding='utf-8'), path, 'exec')
            except SyntaxError as error:
                text = (error.text or '').strip()
                return f'config {path}, line {error.lineno}: {error.msg}: {text}'
    return None


def _files(config: str) -> Iterator[str]:
    """A config and its bases, in the order in which mmengine reads them."""
    yield config
    for name in Config._get_base_files(config):
        yield from _files(Config._get_cfg_path(name, config)[0])


def _complaint_about_bases(config: str) -> str | None:
    """What is wrong with the first `_base_`, in a config or in its bases, that names a missing file."""
    # The same two steps as in mmengine, which has no public way to look at `_base_` alone.
    for name in Config._get_base_files(config):
        complaint = f'config {config}, line {_line_of(name, config)}: `_base_` names {name!r}'
        try:
            base, _ = Config._get_cfg_path(name, config)
        except FileNotFoundError as error:  # of a package: 'mmext::...'
            return f'{complaint}, which the package does not have ({error})'
        if not Path(base).is_file():
            return f'{complaint}, and there is no {base}; the path counts from the folder of the config'
        below = _complaint_about_bases(base)
        if below is not None:
            return below
    return None


def _line_of(text: str, path: str) -> int:
    lines = Path(path).read_text(encoding='utf-8').splitlines()
    return next((number for number, line in enumerate(lines, 1) if text in line), 1)
