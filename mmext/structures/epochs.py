"""The epochs in which a part of a recipe is switched on."""

from collections.abc import Sequence


class EpochWindow:
    """Epochs from `begin` up to, but not including, `end`; the first epoch is 0.

    Args:
        epochs: (begin, end); end None stands for the end of training, and None instead of the pair for all epochs.

    Raises:
        ValueError: epochs is no such pair, or holds no epoch.
    """

    def __init__(self, epochs: Sequence[int | None] | None) -> None:
        begin, end = (0, None) if epochs is None else _checked(epochs)
        self.begin, self.end = begin, end

    def __contains__(self, epoch: int) -> bool:
        return self.begin <= epoch and (self.end is None or epoch < self.end)

    @property
    def holds_all(self) -> bool:
        """Whether the epoch does not matter."""
        return self.begin == 0 and self.end is None

    def __repr__(self) -> str:
        return f'({self.begin}, {self.end})'


def _checked(epochs: Sequence[int | None]) -> tuple[int, int | None]:
    fault = ValueError(
        f'got epochs={epochs!r}; expected (begin, end) with 0 <= begin < end, counted from 0, the end not '
        'included, or (begin, None) for the end of training'
    )
    if isinstance(epochs, str) or len(epochs) != 2:
        raise fault
    begin, end = epochs
    if not isinstance(begin, int) or not isinstance(end, int | None) or begin < 0:
        raise fault
    if end is not None and end <= begin:
        raise fault
    return begin, end
