"""Many photos: what is written where, and reading, cutting and writing side by side.

Files are decoded ahead and encoded behind by threads, while the network works; both queues are short, so that memory
does not depend on the number of photos.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from numpy.typing import NDArray

from mmext.apis.background import BackgroundRemover, Matte
from mmext.apis.cutout import Cutout, PartSeconds
from mmext.apis.image_inputs import relative_names
from mmext.apis.photo_files import PNG_LEVEL, Photo, read_photo, write_png


class Product(NamedTuple):
    """A kind of picture that is made of every cut-out.

    Attributes:
        name: 'alpha', 'rgba', ...
        render: cut-out -> (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA.
    """

    name: str
    render: Callable[[Cutout], NDArray]


class Job(NamedTuple):
    """One photo.

    Attributes:
        source: the file.
        targets: where each product goes, by its name.
    """

    source: Path
    targets: dict[str, Path]


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
        job: the job.
        size: (H, W) of the photo; None after an error.
        seconds: time of the parts; None after an error.
        error: why nothing was written; None where all is well.
    """

    job: Job
    size: tuple[int, int] | None = None
    seconds: PartSeconds | None = None
    error: Exception | None = None


def plan_jobs(sources: Sequence[Path], out: Path, products: Iterable[str]) -> list[Job]:
    """Where the products of every photo go: its path below the folder that holds all photos, ending in .png.

    Photos that differ by their ending only keep it (`a.jpg.png` and `a.webp.png`), so that none overwrites the other.
    Names that differ by upper and lower case only count as equal: on some systems they are.

    Args:
        sources: different files.
        out: folder; with several products, each has a folder of its own in it.
        products: names.
    """
    products = list(products)
    folders = {name: out / name if len(products) > 1 else out for name in products}
    return [
        Job(source, {name: folder / target for name, folder in folders.items()})
        for source, target in zip(sources, png_names(relative_names(sources)), strict=True)
    ]


def png_names(names: Sequence[str]) -> list[str]:
    """A name ending in .png for each of several different names, all different."""
    long = [f'{name}.png' for name in names]
    chosen = [str(PurePosixPath(name).with_suffix('.png')) for name in names]
    # A long name may meet the short name of another file, which then becomes long as well.
    while clashing := {
        key for key, count in Counter(map(str.casefold, chosen)).items() if count > 1
    }:
        keeps = [name.casefold() not in clashing for name in chosen]
        if not any(
            short != own for short, own, keep in zip(chosen, long, keeps, strict=True) if not keep
        ):
            break  # they differ in case only: this system knows the difference
        chosen = [
            short if keep else own for short, own, keep in zip(chosen, long, keeps, strict=True)
        ]
    return chosen


def run_jobs(
    remover: BackgroundRemover,
    jobs: Sequence[Job],
    products: Sequence[Product],
    *,
    batch_size: int = 1,
    workers: int = 2,
    level: int = PNG_LEVEL,
) -> Iterator[Outcome]:
    """Do all jobs; a photo that cannot be read or cut out, or whose products cannot be written, does not stop the others.

    In memory are at most `batch_size + workers` photos that wait and `workers + 1` cut-outs that are written.

    Args:
        remover: cuts them out.
        jobs: of `plan_jobs`.
        products: what their targets name.
        batch_size: photos that go through the network together, where it sees them at one size.
        workers: threads that read, and as many that write.
        level: of PNG compression, 0 to 9.

    Raises:
        ValueError: a number outside its range.
    """
    for name, value in (('batch_size', batch_size), ('workers', workers)):
        if value < 1:
            raise ValueError(f'{name}: got {value}, expected at least 1')
    with ThreadPoolExecutor(workers) as readers, ThreadPoolExecutor(workers) as writers:
        try:
            loaded = _read_ahead(readers, remover, jobs, batch_size + workers)
            written: deque[Future[Outcome]] = deque()
            while batch := list(islice(loaded, batch_size)):
                yield from (item for item in batch if isinstance(item, Outcome))
                good = [item for item in batch if not isinstance(item, Outcome)]
                mattes = remover.mattes([item.photo for item in good]) if good else []
                for item, matte in zip(good, mattes, strict=True):
                    task = (remover, item, matte, products, level)
                    written.append(writers.submit(_write_products, *task))
                    while len(written) > workers:
                        yield written.popleft().result()
            while written:
                yield written.popleft().result()
        finally:
            # Only where the run breaks off are there any.
            for pool in (readers, writers):
                pool.shutdown(wait=False, cancel_futures=True)


class _Loaded(NamedTuple):
    """A photo in memory, and the seconds that reading took."""

    job: Job
    photo: Photo
    seconds: float


def _read_ahead(
    pool: ThreadPoolExecutor, remover: BackgroundRemover, jobs: Sequence[Job], ahead: int
) -> Iterator[_Loaded | Outcome]:
    """Photos in order, or what is wrong with them; at most `ahead` are read or wait."""
    coming: deque[Future[_Loaded | Outcome]] = deque()
    for job in jobs:
        coming.append(pool.submit(_load, remover, job))
        if len(coming) >= ahead:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _load(remover: BackgroundRemover, job: Job) -> _Loaded | Outcome:
    start = remover.clock()
    try:
        photo = read_photo(job.source)
    except (ValueError, OSError) as error:
        return Outcome(job, error=error)
    return _Loaded(job, photo, remover.clock() - start)


def _write_products(
    remover: BackgroundRemover,
    item: _Loaded,
    matte: Matte,
    products: Sequence[Product],
    level: int,
) -> Outcome:
    """The part that follows the network, in a thread of its own."""
    try:
        cutout = remover.finish(item.photo, matte, path=item.job.source, decode=item.seconds)
        start = remover.clock()
        for product in products:
            target = item.job.targets[product.name]
            write_png(target, product.render(cutout), cutout.profile, level)
    # ValueError: an alpha that is none, such as of a network whose float16 has overflowed on this photo.
    except (ValueError, OSError) as error:
        return Outcome(item.job, error=error)
    seconds = cutout.seconds._replace(encode=remover.clock() - start)
    height, width = cutout.alpha.shape
    return Outcome(item.job, (height, width), seconds)
