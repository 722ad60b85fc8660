"""CSV files with one object an image: `filename,xmin,ymin,xmax,ymax,class`, and every mistake with its line.

Other columns may be there and are not read. A file with the column `filename` alone lists images without labels.
Boxes are in pixels, or all of them normalised to [0, 1] by the image's width and height.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mmext.datasets.image_files import DAMAGED
from mmext.datasets.report import Report
from mmext.structures.orientation import upright_size

BOX_COLUMNS = ('xmin', 'ymin', 'xmax', 'ymax')
COLUMNS = ('filename', *BOX_COLUMNS, 'class')
# Boxes are written with one or two decimals: below this, reaching over the edge is rounding.
EDGE_TOLERANCE = 0.1

Box = tuple[float, float, float, float]


class Row(NamedTuple):
    """One image of a CSV file.

    Attributes:
        where: file and line, for messages.
        filename: as written.
        box: (xmin, ymin, xmax, ymax) as written, in pixels or normalised; None in a file without labels.
        category: class name; '' in a file without labels.
    """

    where: str
    filename: str
    box: Box | None
    category: str

    @property
    def is_normalised(self) -> bool:
        """Whether the box lies in [0, 1]. One in pixels cannot, but for the first pixel of an image."""
        return self.box is not None and all(0 <= value <= 1 for value in self.box)


class LabelledImage(NamedTuple):
    """A row whose image was found.

    Attributes:
        row: the row.
        path: the image.
        width: pixels of the upright image.
        height: likewise.
        box: (xmin, ymin, xmax, ymax) in pixels, inside the image; None without labels.
    """

    row: Row
    path: Path
    width: int
    height: int
    box: Box | None


def read_rows(path: str | Path, report: Report) -> tuple[list[Row], int]:
    """Read a CSV file and check what can be checked without the images.

    Args:
        path: the file, UTF-8, separated by commas.
        report: takes every bad row with its line: fields that are missing or too many, boxes that are not four numbers or
            have no area, an image that has two rows, boxes in pixels among normalised ones and the reverse.

    Returns:
        The good rows, and the number of all rows.

    Raises:
        ValueError: the file is missing, empty, no text, has no rows or not the columns.
    """
    header, lines = _read_table(Path(path))
    columns = _find_columns(header, Path(path))
    rows = [_parse(Path(path), number, fields, header, columns, report) for number, fields in lines]
    good = _same_units([row for row in rows if row is not None], report)
    return _one_row_an_image(good, report), len(lines)


def find_image(
    row: Row, folder: str | Path, report: Report, *, classes: Sequence[str] | None = None
) -> LabelledImage | None:
    """Look for the image of a row and place the box in it.

    Args:
        row: of `read_rows`.
        folder: where the images lie.
        report: takes a row whose image is missing or unreadable, whose class is none of `classes` or whose box reaches
            outside the image; None is returned for it.
        classes: known class names, None for any.
    """
    path = Path(folder) / row.filename
    if classes is not None and row.box is not None and row.category not in classes:
        known = ', '.join(classes)
        report.problem('unknown class', row.where, f'got {row.category!r}, expected one of {known}')
        return None
    if not path.is_file():
        report.problem('image that does not exist', row.where, str(path))
        return None
    try:
        with Image.open(path) as image:
            width, height = upright_size(image)
    except DAMAGED as error:
        report.problem('image that cannot be read', row.where, f'{path}: {error}')
        return None
    if row.box is None:
        return LabelledImage(row, path, width, height, None)
    x1, y1, x2, y2 = row.box
    if row.is_normalised:
        x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
    if max(-x1, -y1, x2 - width, y2 - height) > EDGE_TOLERANCE:
        detail = f'{row.filename}: {_text(row.box)} in {width} x {height} pixels'
        report.problem('box that reaches outside the image', row.where, detail)
        return None
    box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    return LabelledImage(row, path, width, height, box)


def write_rows(path: Path, images: Iterable[tuple[str, Box, str]]) -> None:
    """Write (filename, box, class) with the columns of `COLUMNS`; numbers without needless decimals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        for filename, box, category in images:
            writer.writerow([filename, *(f'{value:.10g}' for value in box), category])


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the fields of every row that is not blank with the line it ends in."""
    try:
        # The byte order mark, which spreadsheets write, is no part of the first name.
        with path.open(encoding='utf-8-sig', newline='') as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, fields) for fields in reader if any(map(str.strip, fields))]
    except FileNotFoundError as error:
        raise ValueError(
            f'{path} does not exist; expected a CSV file. Check data_root and ann_file.'
        ) from error
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise ValueError(
            f'{path} is no CSV file in UTF-8: {error}. Save it as CSV (UTF-8, comma).'
        ) from error
    if len(lines) < 2:
        got = 'nothing' if not lines else f'only the header {",".join(lines[0][1])}'
        raise ValueError(
            f'{path} is empty: got {got}, expected {",".join(COLUMNS)} and one row an image.'
        )
    return [name.strip() for name in lines[0][1]], lines[1:]


def _find_columns(header: list[str], path: Path) -> tuple[str, ...]:
    """The columns that are read: all of `COLUMNS`, or the file name alone."""
    repeated = sorted({name for name in header if name in COLUMNS and header.count(name) > 1})
    missing = [name for name in COLUMNS if name not in header]
    if repeated or missing not in ([], list(COLUMNS[1:])):
        fault = f'has the columns {repeated} twice' if repeated else f'lacks the columns {missing}'
        hint = ' Separate them by commas, not semicolons.' if ';' in ''.join(header) else ''
        raise ValueError(
            f'{path}, line 1: the file {fault}: got {",".join(header)}, expected {",".join(COLUMNS)}, or filename '
            f'without any of the others for images without labels.{hint}'
        )
    return COLUMNS if not missing else COLUMNS[:1]


def _parse(
    path: Path,
    number: int,
    fields: list[str],
    header: list[str],
    columns: tuple[str, ...],
    report: Report,
) -> Row | None:
    """A row, or None with a problem reported."""
    where = f'{path.name}, line {number}'
    if len(fields) != len(header):
        report.problem(
            'row of another length than the header', where, f'{len(fields)} fields, {len(header)}'
        )
        return None
    values = {name: fields[header.index(name)].strip() for name in columns}
    empty = [name for name in columns if not values[name]]
    if empty:
        report.problem('empty field', where, ', '.join(empty))
        return None
    if columns != COLUMNS:
        return Row(where, values['filename'], None, '')
    try:
        x1, y1, x2, y2 = (float(values[name]) for name in BOX_COLUMNS)
    except ValueError:
        x1 = y1 = x2 = y2 = math.nan
    texts = ', '.join(values[name] for name in BOX_COLUMNS)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        report.problem('box that is not four numbers', where, f'{values["filename"]}: {texts}')
        return None
    if not (x1 < x2 and y1 < y2):
        detail = f'{values["filename"]}: {texts}; expected xmin < xmax and ymin < ymax'
        report.problem('box without area', where, detail)
        return None
    return Row(where, values['filename'], (x1, y1, x2, y2), values['class'])


def _same_units(rows: list[Row], report: Report) -> list[Row]:
    """Rows in the unit of most of them; in pixels, if as many are normalised."""
    labelled = [row for row in rows if row.box is not None]
    normalised = 2 * sum(row.is_normalised for row in labelled) > len(labelled)
    names = ('in [0, 1]', 'in pixels') if not normalised else ('not in [0, 1]', 'normalised')
    kept = []
    for row in rows:
        if row.box is None or row.is_normalised == normalised:
            kept.append(row)
        else:
            kind = f'box {names[0]}, while most of the file are {names[1]}'
            report.problem(kind, row.where, f'{row.filename}: {_text(row.box)}')
    return kept


def _one_row_an_image(rows: list[Row], report: Report) -> list[Row]:
    """The first of rows that say the same; none of an image whose rows contradict each other."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(Path(row.filename).as_posix(), []).append(row)
    kept = []
    for name, own in by_name.items():
        first, *others = own
        if all(row[2:] == first[2:] for row in others):
            kept.append(first)
            for row in others:
                report.problem('duplicate row', row.where, f'{name}: as {first.where}')
        else:
            where = ' and '.join(row.where.rpartition(' ')[2] for row in own)
            report.problem('image with more than one row', first.where, f'{name}: lines {where}')
            # Each counts, as each is left out.
            for row in others:
                report.problem('image with more than one row', row.where, name)
    return kept


def _text(box: Sequence[float]) -> str:
    return ', '.join(f'{value:g}' for value in box)
