"""What the tools share: readable errors for all of them; arguments, config and Runner for `train` and `test`."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS, DefaultScope
from mmengine.runner import Runner

from mmext.engine.config_file import load_config_file, merge_options
from mmext.engine.config_options import describe_argument
from mmext.engine.dist import LAUNCHERS, set_device, setup_dist
from mmext.engine.preflight import PreflightError, explain_unbuilt_dataset
from mmext.engine.preflight_evaluators import explain_unbuilt_evaluator
from mmext.registry import readable_registry_errors

TRACEBACK_VARIABLE = 'MMEXT_TRACEBACK'

# What a wrong config, path or value raises in mmext, mmengine and mmdet. Anything else is a fault of the
# program and keeps its traceback.
USER_ERRORS = (ValueError, KeyError, OSError, ImportError, SyntaxError)


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that every tool with a Runner has."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    add_config_options(parser)
    parser.add_argument(
        '--device', help='cpu, cuda or cuda:<index>; default: a GPU if there is one'
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='job launcher')
    # Older launchers pass the rank as an argument, under either spelling.
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    add_traceback_argument(parser)


class OptionsAction(DictAction):
    """mmengine's KEY=VALUE, whose mistakes are those of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Reads the settings into a dict."""
        try:
            super().__call__(parser, namespace, values, option_string)
        # No '=', or brackets without their counterparts.
        except (ValueError, AssertionError) as error:
            got = ' '.join(values)
            raise argparse.ArgumentError(
                self, f'got {got}, expected settings such as train_cfg.max_epochs=10 or a="[1,2]"'
            ) from error


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that changes the config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='settings to change in the config, e.g. train_cfg.max_epochs=10 or a="[1,2]"',
    )


def publish(text: str, out: Path | None) -> None:
    """Prints a result, and writes it to a file, in a new folder where need be, if one is named."""
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(f'{text}\n', encoding='utf-8')


def add_traceback_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that `run_command` asks for."""
    parser.add_argument('--traceback', action='store_true', help='show where an error comes from')


def load_config(args: argparse.Namespace) -> Config:
    """Reads the config of a command line and applies the arguments of `add_runtime_arguments`.

    Raises:
        FileNotFoundError: if the config or one of its bases does not exist.
        ValueError: if the device is not there, or the config or a setting is wrong.
    """
    if args.device:
        set_device(args.device)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config_file(args.config)
    if args.cfg_options:
        merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def check_parts(cfg: Config, names: Sequence[str], purpose: str) -> None:
    """Looks for the parts of the config that a run needs.

    Raises:
        ValueError: if some are missing, such as in a file below `_base_`.
    """
    # All that mmengine wants to know of a test loop is that there is one: `test_cfg` may be empty.
    missing = [
        name
        for name in names
        if not cfg.get(name) and (name != 'test_cfg' or cfg.get(name) is None)
    ]
    if missing:
        raise ValueError(f'config {cfg.filename} has no {", ".join(missing)}: nothing to {purpose}')


def check_checkpoint(path: str) -> None:
    """Looks for a checkpoint file before minutes are spent on loading data; addresses are left alone.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder.
    """
    if Path(path).is_dir():
        raise ValueError(f'checkpoint {path} is a folder; give a file, such as {path}/epoch_20.pth')
    if '://' not in path and not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')


def add_hook(cfg: Config, hook: dict) -> None:
    """Adds a hook to the config; one of this type that is there already takes over the settings of `hook`."""
    hooks = cfg.get('custom_hooks') or []
    for other in (*(cfg.get('default_hooks') or {}).values(), *hooks):
        # None switches a default hook off.
        if other is not None and other['type'] == hook['type']:
            other.update(hook)
            return
    cfg.custom_hooks = [*hooks, hook]


def build_runner(cfg: Config) -> Runner:
    """Builds the runner that the config names, or the default one, on GPUs or the CPU.

    Raises:
        ValueError: if a part of the config has an argument that its class does not know.
    """
    setup_dist(cfg)
    try:
        return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except TypeError as error:
        # A misspelt setting; any other TypeError is a fault of the program.
        text = describe_argument(cfg, error)
        if text is None:
            raise
        raise ValueError(f'config {cfg.filename}: {text}') from error


@contextmanager
def explained_datasets(cfg: Config, *loaders: str) -> Iterator[None]:
    """Runs the body; if it fails, looks for a cause in the data sets of these loaders, and in their evaluators, first.

    Raises:
        PreflightError: what the preflight finds wrong with a data set.
        ValueError: an annotation file that is missing or damaged, or an argument in the config that its class does not
            know. Otherwise the error of the body.
    """
    try:
        yield
    except PreflightError:
        raise
    # What mmengine and pycocotools raise for data sets and evaluators that they cannot build.
    except (
        ValueError,
        KeyError,
        AssertionError,
        IndexError,
        TypeError,
        FileNotFoundError,
    ) as error:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
            for loader in loaders:
                if cfg.get(loader):
                    explain_unbuilt_dataset(cfg[loader]['dataset'], f'{loader}.dataset')
                evaluator = loader.replace('dataloader', 'evaluator')
                explain_unbuilt_evaluator(cfg.get(evaluator), f'{cfg.filename}: {evaluator}')
        text = describe_argument(cfg, error) if isinstance(error, TypeError) else None
        if text is not None:
            raise ValueError(f'config {cfg.filename}: {text}') from error
        raise


def error_message(error: BaseException) -> str:
    """One readable text for an error, without the worker traceback that torch wraps around it."""
    # str(KeyError) puts quotes around its message.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if 'in DataLoader worker process' in text:
        # The last line of the worker's traceback that is not indented starts the original message.
        marker = f'\n{type(error).__name__}: '
        text = text.rpartition(marker)[2]
    return text.strip() or type(error).__name__


def run_command(
    command: Callable[[argparse.Namespace], int | None], args: argparse.Namespace
) -> int:
    """Runs a command and turns a user's mistake into one message.

    Returns:
        The exit code: what the command returns (0 for None), or 2 after an error of `USER_ERRORS`. With
        `--traceback` or the environment variable MMEXT_TRACEBACK=1 the traceback is printed first.
    """
    try:
        with readable_registry_errors():
            return command(args) or 0
    except USER_ERRORS as error:
        if args.traceback or os.environ.get(TRACEBACK_VARIABLE, '0') != '0':
            traceback.print_exc()
        print(f'error: {error_message(error)}', file=sys.stderr)
        print('(--traceback shows where it was raised)', file=sys.stderr)
        return 2
