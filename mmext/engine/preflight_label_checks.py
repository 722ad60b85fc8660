"""The checks of maps of classes: from the values in files, and the labels made of them, to findings."""

from collections import Counter
from typing import NamedTuple

from mmext.engine.preflight_checks import Finding, error, some, warning
from mmext.structures.label_maps import NOT_LABELLED

# Names of a first class that is everything else, in small letters.
BACKGROUNDS = frozenset(
    'background _background_ backgr bg null none void normal fondo other others'.split()
)


class MapFacts(NamedTuple):
    """What the files of a data set hold.

    Attributes:
        where: place in the config, such as 'train_dataloader.dataset'.
        classes: name of each label.
        reduces: whether value 0 is ignored and the others count down (`reduce_zero_label`).
        ignored: the label that is not learnt.
        num_maps: maps of the data set.
        stored: file -> value -> pixels, as in the file.
        loaded: label -> pixels, of all files together, as the pipeline loads them.
        empty: files of which every pixel is loaded as `ignored`.
    """

    where: str
    classes: tuple[str, ...]
    reduces: bool
    ignored: int
    num_maps: int
    stored: dict[str, Counter[int]]
    loaded: Counter[int]
    empty: list[str]

    @property
    def values(self) -> Counter[int]:
        """Value -> pixels, of all files together; without `NOT_LABELLED`, which mmseg leaves as it is."""
        total: Counter[int] = Counter()
        for counts in self.stored.values():
            total.update(counts)
        total.pop(NOT_LABELLED, None)
        return total

    @property
    def is_complete(self) -> bool:
        """Whether every map was looked at."""
        return len(self.stored) == self.num_maps

    @property
    def is_all_training(self) -> bool:
        """Whether nothing else is trained on. Validation sets and parts of a concatenation may be poorer."""
        return self.where.startswith('train') and '.datasets[' not in self.where


def judge_maps(facts: MapFacts) -> list[Finding]:
    """Findings on the values of maps; a cause hides its consequences."""
    for check in (_binary_values, _values_beyond, _lost_class, _all_ignored, _one_class):
        findings = check(facts)
        if findings:
            return findings
    return _unseen_classes(facts) + _partly_ignored(facts)


def _values_beyond(facts: MapFacts) -> list[Finding]:
    """Labels that no class has."""
    count = len(facts.classes)
    beyond = sorted(label for label in facts.loaded if label >= count and label != facts.ignored)
    if not beyond:
        return []
    text = (
        f'{facts.where}: got labels {some(beyond, 8)} in the maps looked at, expected 0 to {count - 1} for the {count} classes, '
        f'or {facts.ignored} (ignored). The files hold the values {_spread(facts.values)}'
    )
    if not facts.reduces and beyond == [count]:
        remedy = (
            f'. Where value 0 means "no class", as in ADE20K, set {facts.where}.reduce_zero_label=True; where it is a class of '
            f'its own, put its name in front of metainfo.classes (first now: {facts.classes[0]!r}) and raise num_classes'
        )
    else:
        remedy = (
            f'. Name all classes in {facts.where}.metainfo, or write {facts.ignored} where there is none'
            f'; first file: {_first_with(facts, beyond[0])}'
        )
    return [error(text + remedy)]


def _lost_class(facts: MapFacts) -> list[Finding]:
    """`reduce_zero_label` where value 0 is the first class: it is lost, and the others slip by one."""
    values, count = facts.values, len(facts.classes)
    if not facts.reduces or not values[0] or max(values) >= count:
        return []
    is_background = facts.classes[0].lower() in BACKGROUNDS
    text = (
        f'{facts.where}: got reduce_zero_label=True, the values {_spread(values)} and {count} classes; expected values up to '
        f'{count}. Value 0 ({values[0] / values.total():.1%} of the pixels) is ignored and every other one '
        f'counts down: value 1, {facts.classes[min(1, count - 1)]!r} by its place, would be learnt as {facts.classes[0]!r}, '
        f'and {facts.classes[-1]!r} never occurs'
    )
    remedy = f'. Set {facts.where}.reduce_zero_label=False where value 0 is {facts.classes[0]!r}'
    if is_background or (facts.is_complete and len(values) == count):
        return [error(text + remedy)]
    # The last class may just be rare.
    return [warning(text + remedy)] if len(values) == count else []


def _binary_values(facts: MapFacts) -> list[Finding]:
    """Masks of 0 and 255: what is to be found is ignored. Of a small part, it may be background and crowds."""
    stored: set[int] = set().union(*facts.stored.values())
    is_ignored = facts.ignored == NOT_LABELLED
    if stored != {0, NOT_LABELLED} or len(facts.classes) < 2 or not is_ignored:
        return []
    text = (
        f'{facts.where}: got the values 0 and 255 only, expected 0 to {len(facts.classes) - 1} for {list(facts.classes)[:3]}; '
        '255 means "not labelled", so that all marked pixels are ignored. Write 1 instead of 255 where it marks an object'
    )
    return [error(text) if facts.is_all_training else warning(text)]


def _all_ignored(facts: MapFacts) -> list[Finding]:
    """Nothing to learn at all."""
    if len(facts.empty) < len(facts.stored):
        return []
    reason = 'reduce_zero_label=True, which ignores value 0' if facts.reduces else 'the value 255'
    return [
        error(
            f'{facts.where}: every pixel of all {len(facts.empty)} maps looked at is ignored (label {facts.ignored}), by {reason}; '
            f'the files hold {_spread(facts.values) or "255"}. Check data_prefix.seg_map_path and reduce_zero_label'
        )
    ]


def _one_class(facts: MapFacts) -> list[Finding]:
    """One class only, of several: the model would learn to say it always."""
    seen = [label for label in facts.loaded if label != facts.ignored]
    if len(seen) != 1 or len(facts.classes) == 1:
        return []
    text = (
        f'{facts.where}: got the class {facts.classes[seen[0]]!r} only in the {len(facts.stored)} of {facts.num_maps} maps looked '
        f'at, expected {len(facts.classes)} classes. Check data_prefix.seg_map_path and how the maps were written'
    )
    is_error = facts.is_complete and facts.is_all_training
    return [error(text) if is_error else warning(text)]


def _unseen_classes(facts: MapFacts) -> list[Finding]:
    """Classes without a pixel."""
    unseen = [name for label, name in enumerate(facts.classes) if not facts.loaded[label]]
    if not unseen:
        return []
    looked_at = f'{len(facts.stored)} of {facts.num_maps} maps looked at'
    return [warning(f'{facts.where}: no pixel of the classes {some(unseen, 8)} in the {looked_at}')]


def _partly_ignored(facts: MapFacts) -> list[Finding]:
    """Single maps without any truth."""
    if not facts.empty:
        return []
    return [
        warning(
            f'{facts.where}: {len(facts.empty)} of {len(facts.stored)} maps looked at are ignored everywhere: {some(facts.empty)}'
        )
    ]


def _spread(values: Counter[int]) -> str:
    """The values, in short."""
    return some(sorted(values), 12)


def _first_with(facts: MapFacts, label: int) -> str:
    """The first file that holds what is loaded as a label, or one file where labels are renumbered."""
    value = label + facts.reduces
    return next(
        (path for path, own in facts.stored.items() if own[value]), next(iter(facts.stored))
    )
