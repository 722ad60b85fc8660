"""Where cut-outs go: what must not be written over, and what is there already."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmext.apis.cutout_jobs import Job


def check_not_input(out: Path, source: Path) -> None:
    """Refuses to write over the input.

    Raises:
        ValueError: both are the same file.
    """
    if out.resolve() == source.resolve():
        raise ValueError(f'the output {out} is the input; choose another name')


def check_writable(folder: Path) -> None:
    """Makes a folder and tries to write there, before minutes are spent on what could not be kept.

    Raises:
        ValueError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f'cannot write to the folder {folder}: {error}') from error


def check_targets(jobs: Sequence[Job]) -> None:
    """Refuses to write over photos that are cut out.

    Raises:
        ValueError: a product has the name of a photo.
    """
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        for target in job.targets.values():
            if target.resolve() in sources:
                raise ValueError(f'{target} would overwrite a photo; choose another output folder')


def split_jobs(jobs: Sequence[Job], skip_existing: bool) -> tuple[list[Job], list[Job]]:
    """Jobs whose products are all there, to be left out, and the others."""
    there: list[Job] = []
    todo: list[Job] = []
    for job in jobs:
        is_done = skip_existing and all(path.is_file() for path in job.targets.values())
        (there if is_done else todo).append(job)
    return there, todo
