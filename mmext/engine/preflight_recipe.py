"""Checks of what changes in the course of training, from the config alone: does it fit the length of the training?

A recipe has many numbers that count epochs: the end of the schedule, windows of augmentations, the switch of a matcher,
the second stage. `--cfg-options train_cfg.max_epochs=50` moves none of them.
"""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from mmext.engine.config_options import used_variables, walk_settings
from mmext.engine.preflight_checks import Finding, warning

# Where things stand that change with the epochs. Other parts of a config hold copies of these.
PLACES = ('train_dataloader', 'model', 'custom_hooks', 'default_hooks')
# A schedule in iterations is written for a number of images, which may be a little out of date.
TOLERANCE = 0.05


class Length(NamedTuple):
    """How long a training is.

    Attributes:
        epochs: None where training counts iterations.
        iterations: of the whole training.
    """

    epochs: int | None
    iterations: int

    def __str__(self) -> str:
        if self.epochs is None:
            return f'{self.iterations} iterations (train_cfg.max_iters)'
        return f'{self.epochs} epochs (train_cfg.max_epochs)'

    def of(self, scheduler: Mapping[str, Any]) -> tuple[int | None, str]:
        """The length in what a scheduler counts, and the name of that; None if this training does not count it."""
        if scheduler.get('by_epoch', True):
            return self.epochs, 'epoch'
        return self.iterations, 'iteration'


class Setting(NamedTuple):
    """A setting that counts epochs or iterations.

    Attributes:
        path: as options write it.
        value: as the config has it.
        fault: what is wrong with it; empty if it lies within the training.
    """

    path: str
    value: Any
    fault: str

    def __str__(self) -> str:
        return f'{self.path} = {self.value}' + (f': {self.fault}' if self.fault else '')


def check_lengths(cfg: Mapping[str, Any], length: Length) -> list[Finding]:
    """Whether schedule, windows and switches of a config are made for a training of this length.

    Args:
        cfg: of the run.
        length: of the training.

    Returns:
        No finding, or a single warning with all that does not fit, and what else counts epochs.
    """
    schedule = list(schedule_ends(cfg, length))
    switches = [] if length.epochs is None else list(epoch_settings(cfg, length.epochs))
    faults = [setting for setting in (*schedule, *switches) if setting.fault]
    if not faults:
        return []
    lines = [f'these settings are not made for a training of {length}:']
    lines += [f'    {setting}' for setting in faults]
    # Where only a window is wrong, the others tell nothing.
    rest = [setting for setting in switches if not setting.fault]
    if rest and any(setting.fault for setting in schedule):
        lines += ['  and so, probably, are these:', *(f'    {setting}' for setting in rest)]
    return [warning('\n'.join([*lines, f'  {_remedy(cfg, length)}']))]


def check_batch(model: nn.Module, batch_size: int | None) -> list[Finding]:
    """Whether batches are large enough for the augmentations of whole batches.

    Args:
        model: augmentations with `min_images` are looked for in its `data_preprocessor`.
        batch_size: images a process and step; None if the loader does not know.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    if batch_size is None or not isinstance(preprocessor, nn.Module):
        return []
    return [
        warning(
            f'{type(part).__name__} has no effect: it needs batches of {part.min_images} images, and '
            f'train_dataloader.batch_size is {batch_size}; enlarge it or remove the augmentation'
        )
        for part in preprocessor.modules()
        if getattr(part, 'min_images', 0) > batch_size
    ]


def schedule_ends(cfg: Mapping[str, Any], length: Length) -> Iterator[Setting]:
    """The end of the schedules in `param_scheduler` (the last that ends), and warm-ups that are no part of training."""
    last: tuple[float, Setting] | None = None
    covers_all = False
    for path, scheduler in _schedulers(cfg):
        total, unit = length.of(scheduler)
        warmup = scheduler.get('warmup')
        if isinstance(warmup, int) and 0 < length.iterations <= warmup:
            yield Setting(f'{path}.warmup', warmup, f'training has {length.iterations} iterations')
        name, end = _stated_end(scheduler, total)
        if not total or not isinstance(end, int | float):
            covers_all = True
        elif _is_warmup(scheduler):
            if end >= total:
                yield Setting(
                    f'{path}.end', end, f'the warm-up lasts until {unit} {total}, the end'
                )
        elif last is None or end / total > last[0]:
            fault = _fault_of_end(end, total, unit)
            if fault and name == 'periods':
                fault = f'they end at {unit} {end}: {fault}'
            last = end / total, Setting(f'{path}.{name}', scheduler[name], fault)
    if last is not None and not covers_all:
        yield last[1]


def epoch_settings(cfg: Mapping[str, Any], epochs: int) -> Iterator[Setting]:
    """Windows and switches of a config."""
    roots = {place: cfg[place] for place in PLACES if cfg.get(place)}
    for path, value in walk_settings(roots):
        name = path.rpartition('.')[2]
        if name in _READERS:
            fault = _READERS[name](value, epochs)
            if fault is not None:
                yield Setting(path, value, fault)


def _window(value: Any, epochs: int) -> str | None:
    if not isinstance(value, list | tuple) or len(value) != 2 or not isinstance(value[0], int):
        return None
    if value[0] >= epochs:
        return 'opens after the end'
    return 'closes after the end' if value[1] is not None and value[1] > epochs else ''


def _switch(value: Any, epochs: int) -> str | None:
    if not isinstance(value, int):
        return None
    return 'comes after the end' if value >= epochs else ''


def _last_epochs(value: Any, epochs: int) -> str | None:
    if not isinstance(value, int):
        return None
    return 'leaves no epoch before them' if value >= epochs else ''


def _warmup_epochs(value: Any, epochs: int) -> str | None:
    if not isinstance(value, int | float):
        return None
    return 'the warm-up lasts until the end' if value >= epochs else ''


# Names of settings, ours and mmdet's -> what is wrong with a value; None if it is something else of that name.
_READERS = {
    'epochs': _window,
    'stop_epoch': _switch,
    'change_epoch': _switch,
    'switch_epoch': _switch,
    'num_last_epochs': _last_epochs,
    'warmup_epochs': _warmup_epochs,
}


def _schedulers(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every scheduler of a config: one, a list, or a dict of either for several optimizers."""
    for path, value in walk_settings({'param_scheduler': cfg.get('param_scheduler')}):
        if isinstance(value, Mapping) and 'type' in value:
            yield path, value


def _stated_end(scheduler: Mapping[str, Any], total: int | None) -> tuple[str, Any]:
    """The setting that says where a scheduler ends, and the end. Restarts may end with any of their periods."""
    periods = scheduler.get('periods')
    if not periods or 'end' in scheduler:
        return 'end', scheduler.get('end')
    ends = list(accumulate(periods, initial=scheduler.get('begin', 0)))[1:]
    # Where none fits, the first that the training does not reach, or the last.
    return 'periods', next((end for end in ends if total is None or end >= total), ends[-1])


def _is_warmup(scheduler: Mapping[str, Any]) -> bool:
    """Whether it starts with the training and ends at the full rate."""
    kind = str(scheduler['type'])
    rises = 'Linear' in kind and scheduler.get('end_factor', 1.0) == 1.0
    return scheduler.get('begin', 0) == 0 and (rises or 'Constant' in kind or 'Warmup' in kind)


def _fault_of_end(end: float, total: int, unit: str) -> str:
    if end == total or (unit == 'iteration' and abs(end - total) <= TOLERANCE * total):
        return ''
    if end < total:
        return f'the schedule ends there, and training goes on to {unit} {total}'
    return f'training ends at {unit} {total}, before the schedule'


def _remedy(cfg: Mapping[str, Any], length: Length) -> str:
    """How to make them fit."""
    variable = 'max_iters' if length.epochs is None else 'max_epochs'
    of_file, trained = (
        cfg.get(variable),
        length.iterations if length.epochs is None else length.epochs,
    )
    name = getattr(cfg, 'filename', None)
    # A dumped config has the variable, but no computation with it.
    is_computed = name and Path(name).is_file() and variable in used_variables(name)
    if is_computed and of_file != trained:
        return (
            f'Set {variable} = {trained} in {name} instead of train_cfg.{variable}: what is computed from it '
            'follows. Or set each of them.'
        )
    return 'Set them, or the length of training.'
