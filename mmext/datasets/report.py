"""One report on a data set: every problem is counted and named, nothing is dropped in silence."""

from collections import defaultdict
from pathlib import Path

# What the terminal shows of each kind; converters also write a file with every entry.
MAX_SHOWN = 5


class Report:
    """Problems (data left out or changed) and notes (what follows from the rules), counted by kind."""

    def __init__(self) -> None:
        self.problems: dict[str, list[str]] = defaultdict(list)
        self.notes: dict[str, list[str]] = defaultdict(list)

    def problem(self, kind: str, file: str | Path, detail: str = '') -> None:
        """Record that something could not be taken over as it is.

        Args:
            kind: What is wrong and what was done about it: the heading under which entries are counted.
            file: The file to look at.
            detail: The place in the file or the values found.
        """
        self.problems[kind].append(f'{file} ({detail})' if detail else str(file))

    def note(self, kind: str, file: str | Path, detail: str = '') -> None:
        """Record something that is so by the rules and is worth looking up; arguments as in `problem`."""
        self.notes[kind].append(f'{file} ({detail})' if detail else str(file))

    @property
    def num_problems(self) -> int:
        """Entries of all kinds of problems; notes do not count."""
        return sum(len(entries) for entries in self.problems.values())

    def text(self, max_shown: int | None = MAX_SHOWN) -> str:
        """The report as lines of text; `max_shown=None` lists every entry."""
        lines = []
        for title, kinds in (('warning', self.problems), ('note', self.notes)):
            for kind, entries in sorted(kinds.items()):
                shown = entries if max_shown is None else entries[:max_shown]
                lines.append(f'{title}: {len(entries)} x {kind}')
                lines.extend(f'    {entry}' for entry in shown)
                if len(shown) < len(entries):
                    lines.append(f'    ... and {len(entries) - len(shown)} more')
        return '\n'.join(lines) or 'no problems found'
