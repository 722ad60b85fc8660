"""Filling a backbone from a file of pre-trained weights: completely, or an error that says what is wrong.

mmengine's `init_cfg=dict(type='Pretrained')` loads what fits and leaves the rest random, with a line in the log. A
backbone that is half random learns all the same, only badly, and nobody looks for the reason there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

_MAX_NAMES = 5
_PREFIX = 'backbone.'
# Counters of batch norm do nothing where the momentum is a number, and some files are without them.
_COUNTER = '.num_batches_tracked'


def backbone_entries(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Those of the backbone under its own names, where the file is of a whole model; else all as they are."""
    if not any(name.startswith(_PREFIX) for name in tensors):
        return tensors
    return {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(_PREFIX)
    }


def fill_backbone(
    module: nn.Module,
    found: Mapping[str, Tensor],
    source: str,
    *,
    constants: re.Pattern[str] | None = None,
    may_differ: re.Pattern[str] | None = None,
) -> None:
    """Copy weights into a module and report it; nothing is copied where something is wrong.

    Args:
        module: Receives the weights.
        found: Entries of the file under the module's names. What belongs to no entry of it is reported.
        source: The file, for messages.
        constants: Names that may be absent, because the module has the right values from the start.
        may_differ: Names that may be absent or of another shape, and then keep their random values.

    Raises:
        ValueError: Other entries are absent or of another shape, or entries are not finite.
    """
    expected = module.state_dict()
    fitting = {n: found[n] for n in expected if n in found and found[n].shape == expected[n].shape}
    kept = [
        n for n in expected if n not in fitting and may_differ is not None and may_differ.match(n)
    ]
    allowed_absent = [n for n in expected if _may_be_absent(n, constants)]
    faults = _faults(expected, found, fitting, {*kept, *allowed_absent})
    if faults:
        lines = '\n  '.join(faults)
        name = type(module).__name__
        raise ValueError(
            f'checkpoint {source} does not fill {name}:\n  {lines}\nGive the complete file of this architecture, or '
            'change arch; nothing was loaded.'
        )
    module.load_state_dict(fitting, strict=False)
    unused = [n for n in found if n not in expected]
    text = f'checkpoint {source}: {len(fitting)} entries of {type(module).__name__} are filled'
    if kept:
        text += f', {len(kept)} do not fit and keep random values: {_listed(kept)}'
    if unused:
        text += f', not used: {_listed(unused)}'
    print_log(text, 'current', level=30 if kept or unused else 20)


def warn_of_random_weights(module: nn.Module) -> None:
    """Say that a backbone starts without pre-trained weights."""
    print_log(
        f'{type(module).__name__}: no checkpoint= given, it starts from random weights unless '
        'load_from or resume brings others',
        'current',
        level=30,
    )


def refuse_pretrained(init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None) -> None:
    """Raise ValueError for `dict(type='Pretrained')`, which fills a backbone partly without an error."""
    for config in [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg or ():
        if config.get('type') == 'Pretrained':
            raise ValueError(
                f'got init_cfg={dict(config)}, which would leave random what the file does not fill; give the file '
                f'as checkpoint={config.get("checkpoint")!r} of the backbone instead'
            )


def _may_be_absent(name: str, constants: re.Pattern[str] | None) -> bool:
    return name.endswith(_COUNTER) or (constants is not None and bool(constants.fullmatch(name)))


def _faults(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    fitting: Mapping[str, Tensor],
    excused: set[str],
) -> list[str]:
    """One line for each kind of fault: how many entries have it, and the first of them."""
    kinds = {
        'missing': [n for n in expected if n not in found and n not in excused],
        'of another shape': [
            f'{n} {tuple(found[n].shape)} instead of {tuple(expected[n].shape)}'
            for n in expected
            if n in found and n not in fitting and n not in excused
        ],
        'not finite': [n for n, value in fitting.items() if not value.isfinite().all()],
    }
    return [f'{len(names)} {kind}: {_listed(names)}' for kind, names in kinds.items() if names]


def _listed(names: Sequence[str]) -> str:
    return f'{", ".join(names[:_MAX_NAMES])}{", ..." * (len(names) > _MAX_NAMES)}'
