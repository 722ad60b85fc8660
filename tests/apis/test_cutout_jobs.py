"""Names of products, and a folder of photos through the threads."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmext.apis import cutout_jobs
from mmext.apis.background import BackgroundRemover
from mmext.apis.cutout import Cutout
from mmext.apis.cutout_jobs import Product, plan_jobs, png_names, run_jobs
from mmext.apis.photo_files import read_photo

PRODUCTS = [Product('rgba', Cutout.rgba), Product('alpha', Cutout.alpha_picture)]


def green_is_back(image: np.ndarray) -> np.ndarray:
    return (image[..., 1] < 128).astype(np.float32)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['a.jpg', 'b/a.jpg', 'c.d.e.png'], ['a.png', 'b/a.png', 'c.d.e.png']),
        (['a.jpg', 'a.png', 'b.jpg'], ['a.jpg.png', 'a.png.png', 'b.png']),
        (['a.jpg', 'a.webp', 'a.jpg.tif'], ['a.jpg.png', 'a.webp.png', 'a.jpg.tif.png']),
        (['A.jpg', 'a.png'], ['A.jpg.png', 'a.png.png']),
        (['A.jpg', 'a.jpg'], ['A.jpg.png', 'a.jpg.png']),
        ([], []),
    ],
    ids=['folders and dots', 'equal stems', 'long meets short', 'case', 'case only', 'none'],
)
def test_png_names__stay_apart(names, expected):
    assert png_names(names) == expected


def test_plan_jobs__several_products_have_folders(tmp_path: Path):
    sources = [tmp_path / 'x' / 'a.jpg', tmp_path / 'y.jpg']
    (first, second) = plan_jobs(sources, Path('out'), ['rgba', 'alpha'])
    assert first.targets == {'rgba': Path('out/rgba/x/a.png'), 'alpha': Path('out/alpha/x/a.png')}
    assert second.source == sources[1]
    assert plan_jobs(sources, Path('out'), ['alpha'])[0].targets == {'alpha': Path('out/x/a.png')}


@pytest.mark.parametrize(('batch_size', 'workers'), [(1, 1), (3, 2), (100, 4)])
def test_run_jobs__every_photo_once_and_in_its_place(tmp_path: Path, batch_size, workers):
    for index in range(7):
        pixels = np.full((6 + index, 8, 3), 30 * index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'{index}.png')
    (tmp_path / '3.png').write_bytes(b'no image')
    jobs = plan_jobs(sorted(tmp_path.glob('*.png')), tmp_path / 'out', ['rgba', 'alpha'])
    remover = BackgroundRemover(green_is_back)
    outcomes = list(run_jobs(remover, jobs, PRODUCTS, batch_size=batch_size, workers=workers))
    assert sorted(outcome.job.source.stem for outcome in outcomes) == list('0123456')
    for outcome in outcomes:
        name = outcome.job.source.stem
        if name == '3':
            assert 'cannot read' in str(outcome.error) and outcome.size is None
            continue
        assert outcome.error is None and outcome.size == (6 + int(name), 8)
        with Image.open(outcome.job.targets['rgba']) as picture:
            assert picture.size == outcome.size[::-1] and picture.mode == 'RGBA'
        with Image.open(outcome.job.targets['alpha']) as picture:
            assert set(picture.getdata()) == {255 if 30 * int(name) < 128 else 0}


def test_run_jobs__what_cannot_be_written_is_an_outcome(tmp_path: Path):
    for name in 'ab':
        Image.new('RGB', (4, 4)).save(tmp_path / f'{name}.png')
    (tmp_path / 'out' / 'a.png').mkdir(parents=True)
    jobs = plan_jobs(sorted(tmp_path.glob('*.png')), tmp_path / 'out', ['rgba'])
    bad, good = run_jobs(BackgroundRemover(green_is_back), jobs, PRODUCTS[:1])
    assert isinstance(bad.error, OSError) and good.error is None


def test_run_jobs__an_alpha_that_is_none_is_an_outcome(tmp_path: Path):
    for name, value in (('a', 10), ('b', 200)):
        Image.new('RGB', (4, 4), (value, value, value)).save(tmp_path / f'{name}.png')

    def overflow(image: np.ndarray) -> np.ndarray:
        return np.full((4, 4), 0.5 if image[0, 0, 0] > 100 else np.nan, np.float32)

    jobs = plan_jobs(sorted(tmp_path.glob('*.png')), tmp_path / 'out', ['rgba'])
    bad, good = run_jobs(BackgroundRemover(overflow), jobs, PRODUCTS[:1])
    assert 'got an alpha with values from nan' in str(bad.error)
    assert good.error is None and good.job.targets['rgba'].is_file()


def test_run_jobs__few_photos_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for index in range(20):
        Image.new('RGB', (4, 4)).save(tmp_path / f'{index:02}.png')
    jobs = plan_jobs(sorted(tmp_path.glob('*.png')), tmp_path / 'out', ['rgba'])
    read = []
    monkeypatch.setattr(
        cutout_jobs, 'read_photo', lambda path: read.append(path) or read_photo(path)
    )
    run = run_jobs(BackgroundRemover(green_is_back), jobs, PRODUCTS[:1], batch_size=2, workers=2)
    next(run)
    # Two batches at the network, two cut-outs that are written, and four photos ahead.
    assert len(read) <= 2 * 2 + 2 + 4
    run.close()
    assert len(read) < 20


@pytest.mark.parametrize('options', [dict(batch_size=0), dict(workers=0)], ids=str)
def test_run_jobs__refuses_no_work(options):
    with pytest.raises(ValueError, match='got 0, expected at least 1'):
        list(run_jobs(BackgroundRemover(green_is_back), [], PRODUCTS, **options))
