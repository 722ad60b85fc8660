"""Settings changed from outside a config file: what would change nothing is named before anything is built.

A text config is a program. When its settings can be changed, its variables (`max_epochs = 20`) have long been written
where they are used, and a new name that nothing asks for stays without any effect.
"""

import ast
import difflib
import inspect
import re
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import Runner, loops

# What mmengine's Runner reads from its config besides its arguments, and what tools read.
_READ_BESIDES = (
    'runner_type',
    'model_wrapper_cfg',
    'sync_bn',
    'find_unused_parameters',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
    'compile',
    'strategy',
    'tta_model',
    'tta_pipeline',
)
READ = frozenset((*inspect.signature(Runner).parameters, *_READ_BESIDES)) - {'cfg'}
# Plain dicts that one place reads key by key, and whose other keys nobody misses.
FIXED_KEYS = {
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'auto_scale_lr': ('enable', 'base_batch_size'),
    'randomness': ('seed', 'deterministic', 'diff_rank_seed'),
}
_LOOPS = loops.__file__
_CLOSE = 0.8
_MAX_SHOWN = 4


def check_options(
    cfg: Mapping[str, Any], options: Mapping[str, Any], sources: Sequence[str]
) -> None:
    """Look for settings that would change nothing.

    Logs a warning where a name only looks misspelt, and where nothing in mmengine reads the setting.

    Args:
        cfg: the config before the change.
        options: paths of settings, such as 'train_cfg.max_epochs' -> their new values.
        sources: the files of the config, those of its bases included; those that are no Python are not looked at.

    Raises:
        ValueError: a setting is not in the config and nothing reads it; or it is a variable of the config's files, or
            of those that a dumped config comes from.
    """
    variables = {name for path in sources for name in used_variables(path)}
    for key, value in options.items():
        root, _, rest = key.partition('.')
        if root in READ:
            _check_inside(cfg, key)
        elif root not in cfg:
            raise ValueError(
                f'--cfg-options {key}={value}: {root} is not in the config, and nothing reads it'
                f'{_suggestion(nearest_settings(cfg, root), rest)}; where code of your own reads it, write it into '
                'the config file first'
            )
        elif root in variables or any(place.endswith(f'.{root}') for place in _places(cfg, root)):
            raise ValueError(f'--cfg-options {key}={value}: {_why_too_late(cfg, root, rest)}')
        else:
            print_log(
                f'--cfg-options {key}={value}: nothing in mmengine reads {root}; it has an effect if code of your '
                'own does',
                'current',
                level=30,
            )


def used_variables(path: str) -> set[str]:
    """The names that a Python config reads while it runs: of its own, and `_base_.name`."""
    if not path.endswith('.py'):
        return set()
    text = Path(path).read_text(encoding='utf-8')
    # mmengine replaces '{{_base_.name}}', also inside of strings.
    names = set(re.findall(r'\{\{\s*_base_\.(\w+)', text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and getattr(node.value, 'id', None) == '_base_':
            names.add(node.attr)
    return names


def walk_settings(value: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Every setting below a value, with its path as options write it ('train_dataloader.dataset.pipeline.0.type')."""
    children: Collection[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list | tuple):
        children = list(enumerate(value))
    for name, child in children:
        inside = f'{path}.{name}' if path else str(name)
        yield inside, child
        yield from walk_settings(child, inside)


def read_settings(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`walk_settings` of what a run reads, without the variables."""
    return walk_settings({key: value for key, value in cfg.items() if key in READ})


def nearest_settings(cfg: Mapping[str, Any], name: str, *, with_itself: bool = True) -> list[str]:
    """Settings of that name, or else of one like it: those with the shortest paths.

    Args:
        cfg: the config.
        name: the last part of a path.
        with_itself: whether settings of just that name count.
    """
    paths = [*READ, *(path for path, _ in read_settings(cfg))]
    by_name: dict[str, list[str]] = {}
    for path in dict.fromkeys(sorted(paths, key=lambda path: (path.count('.'), path))):
        by_name.setdefault(path.rpartition('.')[2], []).append(path)
    if with_itself and name in by_name:
        return by_name[name][:_MAX_SHOWN]
    by_name.pop(name, None)
    matches = difflib.get_close_matches(name, by_name, 2, _CLOSE)
    return [path for match in matches for path in by_name[match]][:_MAX_SHOWN]


def describe_argument(cfg: Mapping[str, Any], error: TypeError) -> str | None:
    """What to say about an argument in the config that its class does not know.

    Args:
        cfg: the config.
        error: raised by a Runner.

    Returns:
        The error's text, with settings of a like name; None for any other TypeError, and for one that was raised
        while a loop ran: that is no mistake of the config.
    """
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not found or any(code.co_filename == _LOOPS and code.co_name == 'run' for code in frames):
        return None
    # The config has the wrong one, too.
    return f'{error}{_suggestion(nearest_settings(cfg, found[1], with_itself=False), "")}'


def _why_too_late(cfg: Mapping[str, Any], name: str, rest: str) -> str:
    """Why a variable of the config files cannot be changed any more, and what to change instead."""
    places = _places(cfg, name)
    remedy = f', or set what has its value: {_join(places[:_MAX_SHOWN], rest)}' if places else ''
    return (
        f'{name} is a variable of the config file. Its value has been written where it is used, and changing the '
        f'variable now moves nothing. Change it in the file, which moves all that is computed from it{remedy}'
    )


def _places(cfg: Mapping[str, Any], name: str) -> list[str]:
    """The settings that have the value of a variable, those with the shortest paths first."""
    old = cfg[name]
    # 1 is no True.
    places = [
        path for path, value in read_settings(cfg) if value == old and type(value) is type(old)
    ]
    return sorted(places, key=lambda path: path.count('.'))


def _suggestion(paths: Sequence[str], rest: str) -> str:
    return f'; did you mean {_join(paths, rest)}?' if paths else ''


def _join(paths: Sequence[str], rest: str) -> str:
    return ', '.join(f'{path}.{rest}' if rest else path for path in paths)


def _check_inside(cfg: Mapping[str, Any], key: str) -> None:
    """Look at the first name of a path that is not in the config.

    In a dict with a `type` the class refuses what it does not know. Elsewhere nobody does.
    """
    names = key.split('.')
    allowed = FIXED_KEYS.get(names[0])
    if allowed and len(names) > 1 and names[1] not in allowed:
        raise ValueError(
            f'--cfg-options {key}: {names[0]} has no setting {names[1]}; expected one of {list(allowed)}'
        )
    parent: Any = {key: value for key, value in cfg.items() if key == names[0]}
    for depth, name in enumerate(names):
        if isinstance(parent, Mapping) and name in parent:
            parent = parent[name]
        elif isinstance(parent, list | tuple) and name.isdigit() and int(name) < len(parent):
            parent = parent[int(name)]
        else:
            if isinstance(parent, Mapping):
                _warn_of_lookalike(parent, names[:depth], name)
            return  # where a path leads to nowhere, merging says so


def _warn_of_lookalike(parent: Mapping[str, Any], path: Sequence[str], name: str) -> None:
    """Warn of a name beside one that is almost the same, in a dict that no class checks."""
    close = difflib.get_close_matches(name, map(str, parent), 1, _CLOSE)
    if path and close and 'type' not in parent:
        print_log(
            f'--cfg-options: {".".join([*path, name])} is new beside {close[0]}; if it is misspelt, nothing reads it',
            'current',
            level=30,
        )
