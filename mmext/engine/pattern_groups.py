"""Parameter groups by regular expressions: learning rate and weight decay of every parameter, stated in the config."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmext.registry import OPTIM_WRAPPER_CONSTRUCTORS

RATE_KEYS = ('lr', 'lr_mult')
DECAY_KEYS = ('weight_decay', 'decay_mult')
ENTRY_KEYS = ('pattern', *RATE_KEYS, *DECAY_KEYS)
PLACE = 'optim_wrapper.paramwise_cfg'


def split_by_pattern(names: Sequence[str], patterns: Sequence[str]) -> list[list[str]]:
    """Sorts names by the first pattern that is found in them.

    Args:
        names: of parameters.
        patterns: regular expressions, searched for anywhere in a name; `^` and `$` tie them to its ends.

    Returns:
        One list of names for each pattern, in their order, and a last one with the names that no pattern fits.
    """
    groups: list[list[str]] = [[] for _ in range(len(patterns) + 1)]
    for name in names:
        fits = (i for i, pattern in enumerate(patterns) if re.search(pattern, name))
        groups[next(fits, -1)].append(name)
    return groups


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PatternOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds an optimizer with one parameter group for each pattern, and one for the rest.

    Every trainable parameter belongs to the first pattern that is found in its full name (`re.search`); where none
    is, to the last group, with rate and decay of the optimizer. Parameters that are shared count once, under their
    first name. The log says what is in each group. Each group carries its regular expression under the key `pattern`.

    Config, a pretrained backbone with a lower rate, and no decay of norm layers and biases::

        optim_wrapper = dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=5e-4, weight_decay=1e-4),
            constructor='mmext.PatternOptimWrapperConstructor',
            paramwise_cfg=dict(patterns=[
                dict(pattern=r'^backbone\\..*(norm|bias)', lr=2.5e-5, weight_decay=0.0),
                dict(pattern=r'^backbone\\.', lr=2.5e-5),
                dict(pattern=r'norm|bias', weight_decay=0.0)]))

    Args:
        optim_wrapper_cfg: config of the wrapper, with the entry `optimizer`.
        paramwise_cfg: a dict with `patterns`, a list of dicts: `pattern`, and any of `lr` or `lr_mult` (a factor of
            the optimizer's) and `weight_decay` or `decay_mult`. What an entry leaves out is as in the optimizer.

    Raises:
        ValueError: `paramwise_cfg` or an entry has an unknown key or lacks one, an entry has a rate or a decay twice or
            below 0, a pattern is no regular expression, or no trainable parameter is left for it.
    """

    def _validate_cfg(self) -> None:
        if set(self.paramwise_cfg) != {'patterns'} or not self.paramwise_cfg['patterns']:
            raise ValueError(
                f'{PLACE}: got the keys {sorted(self.paramwise_cfg)}; PatternOptimWrapperConstructor expects '
                'patterns=[dict(pattern=..., lr=..., weight_decay=...), ...] with at least one entry, and nothing else'
            )
        for index, entry in enumerate(self.paramwise_cfg['patterns']):
            self._check_entry(f'{PLACE}.patterns[{index}]', entry)

    def _check_entry(self, place: str, entry: Mapping[str, Any]) -> None:
        unknown = sorted(set(entry) - set(ENTRY_KEYS))
        if unknown or 'pattern' not in entry:
            raise ValueError(
                f'{place}: got the keys {list(entry)}; expected pattern and any of {list(ENTRY_KEYS[1:])}'
            )
        for keys, base in ((RATE_KEYS, self.base_lr), (DECAY_KEYS, self.base_wd)):
            given = [key for key in keys if key in entry]
            if len(given) > 1 or any(entry[key] < 0 for key in given):
                values = {key: entry[key] for key in given}
                raise ValueError(f'{place}: got {values}; expected one of them, of at least 0')
            if given == [keys[1]] and base is None:
                raise ValueError(
                    f'{place}: got {keys[1]}, a factor, but optim_wrapper.optimizer has no {keys[0]}; set one there, '
                    f'or {keys[0]} here'
                )
        try:
            re.compile(entry['pattern'])
        except re.error as error:
            raise ValueError(
                f'{place}: {entry["pattern"]!r} is no regular expression: {error}; correct it'
            ) from error

    def add_params(  # type: ignore[override]
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: object = None
    ) -> None:
        """Appends the groups of the whole model to `params`; an empty rest is left out."""
        entries = self.paramwise_cfg['patterns']
        parameters = {
            name: value for name, value in module.named_parameters() if value.requires_grad
        }
        *groups, rest = split_by_pattern(list(parameters), [entry['pattern'] for entry in entries])
        for index, (entry, names) in enumerate(zip(entries, groups, strict=True)):
            if not names:
                cause = _why_empty(entry['pattern'], module)
                raise ValueError(
                    f'{PLACE}.patterns[{index}]: no trainable parameter is left for {entry["pattern"]!r}: {cause}; '
                    'correct or remove it'
                )
        if rest:
            entries, groups = [*entries, {}], [*groups, rest]
        for entry, names in zip(entries, groups, strict=True):
            group = self._settings(entry)
            values = [parameters[name] for name in names]
            params.append(dict(params=values, **group))
            print_log(
                f'parameter group {group["pattern"] or "of the rest"}: {len(values)} tensors with '
                f'{sum(value.numel() for value in values):,} numbers, lr {group.get("lr")}, weight decay '
                f'{group.get("weight_decay")}',
                'current',
            )

    def _settings(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Pattern, rate and decay of an entry's group; what is None is left to the optimizer."""
        lr, decay = entry.get('lr', self.base_lr), entry.get('weight_decay', self.base_wd)
        if 'lr_mult' in entry:
            lr = self.base_lr * entry['lr_mult']
        if 'decay_mult' in entry:
            decay = self.base_wd * entry['decay_mult']
        settings = dict(lr=lr, weight_decay=decay)
        given = {key: value for key, value in settings.items() if value is not None}
        return dict(pattern=entry.get('pattern', ''), **given)


def _why_empty(pattern: str, model: nn.Module) -> str:
    """Why no parameter is left for a pattern."""
    found = {name: value for name, value in model.named_parameters() if re.search(pattern, name)}
    if not found:
        return 'no name fits'
    if not any(value.requires_grad for value in found.values()):
        return f'all {len(found)} that fit are frozen'
    return f'those that fit ({next(iter(found))}, ...) belong to earlier patterns or are frozen'
