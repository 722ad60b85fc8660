"""What the conversions of `convert_weights` return, and lines of their reports."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Converted(NamedTuple):
    """What a source makes of a file.

    Attributes:
        state_dict: Tensors under the names of mmext's model.
        meta: Facts for the checkpoint: strings, numbers and containers of them only.
        config: Python text of the config that fits; `{checkpoint}` stands for the literal of DST's
            file name.
        report: Lines for the user.
    """

    state_dict: dict[str, Tensor]
    meta: dict[str, Any]
    config: str
    report: list[str]


class Exported(NamedTuple):
    """A checkpoint in the form of another project.

    Attributes:
        content: What the file holds.
        report: Lines for the user.
    """

    content: dict[str, Any]
    report: list[str]


def shortened(names: Sequence[str]) -> str:
    """The first names."""
    return f'{", ".join(names[:4])}{f" and {len(names) - 4} more" * (len(names) > 4)}' or 'nothing'


def count_lines(names: Iterable[str]) -> list[str]:
    """Number of tensors of each part of the model."""
    counts = Counter(name.partition('.')[0] for name in names)
    return [f'{part}: {count} tensors' for part, count in counts.items()]
