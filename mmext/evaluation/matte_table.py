"""A table of the scores of every image, the worst first: which photos are bad."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

# The name of an image and its scores; names may repeat.
Row: TypeAlias = tuple[str, Mapping[str, float]]

# What the rows are sorted by, the first of them that was measured; -1 where more is worse.
WORST_FIRST = (('IoU', 1), ('MAD_x1e3', -1))


def write_score_table(path: str | Path, rows: Sequence[Row]) -> None:
    """Write a CSV file: a line an image, its name in the column `image`, a column for every score.

    Args:
        path: of the file; its folder is made.
        rows: of the images. A score that one does not have is left empty.

    Raises:
        OSError: the file cannot be written.
    """
    columns = list(dict.fromkeys(name for _, scores in rows for name in scores))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['image', *columns])
        for image, scores in worst_first(rows):
            cells = [f'{scores[name]:.6g}' if name in scores else '' for name in columns]
            writer.writerow([image, *cells])


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """The rows, those of the worst images first; as they come where nothing that tells was measured."""
    for name, sign in WORST_FIRST:
        if all(name in scores for _, scores in rows):
            return sorted(rows, key=lambda row: sign * row[1][name])
    return list(rows)


def check_table_name(path: str | Path | None) -> None:
    """Refuses a name before minutes are spent on the scores.

    Raises:
        ValueError: it does not end in .csv.
    """
    if path is not None and Path(path).suffix.lower() != '.csv':
        raise ValueError(f'table: got {str(path)!r}, expected the name of a file ending in .csv')
