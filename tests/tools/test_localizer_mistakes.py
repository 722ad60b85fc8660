"""Mistakes in the CSV of single objects, through the tools that read one: each named with its line, or counted."""

import argparse
import copy
from pathlib import Path

import pytest
from mmengine.config import Config

from mmext.datasets.localization_csv import read_rows
from mmext.datasets.report import Report
from mmext.tools import augment_dataset, explore_dataset, split_csv, test, train
from mmext.tools.single_objects import Submission, list_photos, read_truth
from tests.datasets.raw_data import write_image, write_text
from tests.one_message import HINT
from tests.systems import SYSTEMS

HEADER = 'filename,xmin,ymin,xmax,ymax,class'
# a.png and b.png in lines 2 and 3 are good, what follows begins in line 4; images are 80 x 60.
GOOD = ['a.png,10,20,30,40,x', 'b.png,0,0,80,60,y']
# Name -> rows, and the words that every message has.
BAD_ROWS = {
    'no-image': (['z.png,1,2,3,4,x'], ['image that does not exist', 'line 4', 'z.png']),
    'duplicate': ([GOOD[0]], ['duplicate row', 'line 4', 'line 2']),
    'outside': (['c.png,1,2,81,4,x'], ['reaches outside the image', 'line 4', '80 x 60']),
    'mixed-units': (
        ['d.png,0.1,0.2,0.3,0.4,x'],
        ['while most of the file are in pixels', 'line 4'],
    ),
    'two-rows': (
        ['f.png,1,2,3,4,x', 'f.png,5,6,7,8,x'],
        ['image with more than one row', 'lines 4 and 5'],
    ),
}
UNKNOWN_CLASS = (
    ['e.png,1,2,3,4,hat'],
    ['unknown class', 'line 4', "got 'hat', expected one of x, y"],
)
BAD_FILES = {
    'missing-column': (
        'filename,xmin,ymin,xmax,class\na.png,1,2,3,x\n',
        "lacks the columns ['ymax']",
    ),
    'empty': ('', 'is empty: got nothing'),
    'header-only': (HEADER + '\n', 'is empty: got only the header'),
}
# Split does not look at the images.
SPLIT_SEES = ('duplicate', 'mixed-units', 'two-rows')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in 'abcdef':
        write_image(tmp_path / 'photos' / f'{name}.png', 80, 60)
    return tmp_path / 'photos'


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message on stderr; bad rows are listed below its first line."""
    message, hint = capsys.readouterr().err.strip().rsplit('\n', 1)
    assert message.startswith('error: ') and 'Traceback' not in message and hint == HINT
    return message


def write_csv(folder: Path, rows: list[str]) -> Path:
    return write_text(folder.parent / 'all.csv', '\n'.join([HEADER, *GOOD, *rows]) + '\n')


def run(tool: str, path: Path, folder: Path, *options: str) -> int:
    out = str(folder.parent / 'out')
    if tool == 'split':
        return split_csv.main([str(path), out, *options])
    if tool == 'augment':
        return augment_dataset.main([str(path), out, '--images', str(folder), *options])
    return explore_dataset.main(
        [str(path), '--images', str(folder), '--out', f'{out}.html', *options]
    )


CASES = [
    (tool, name)
    for tool in ('split', 'augment')
    for name in BAD_ROWS
    if tool == 'augment' or name in SPLIT_SEES
]
cases = pytest.mark.parametrize(('tool', 'name'), CASES, ids=map('-'.join, CASES))


@cases
def test_bad_row__stops_with_its_line(folder, capsys, tool, name):
    rows, words = BAD_ROWS[name]
    assert run(tool, write_csv(folder, rows), folder) == 2
    said = error_of(capsys)
    assert all(word in said for word in [*words, 'rows are bad', '--skip-bad'])
    assert not (folder.parent / 'out').exists()


@cases
def test_bad_row__is_left_out_and_counted(folder, capsys, tool, name):
    rows, words = BAD_ROWS[name]
    assert run(tool, write_csv(folder, rows), folder, '--skip-bad') == 0
    said = capsys.readouterr().out
    assert f'{len(rows)} of {2 + len(rows)} rows are bad and left out' in said
    assert all(word in said for word in words)
    found = {
        row.filename
        for path in (folder.parent / 'out').glob('*.csv')
        for row in read_rows(path, Report())[0]
    }
    assert {'a.png', 'b.png'} <= found and not any(name[0] in 'cdefz' for name in found)


def test_explore__counts_every_kind_and_the_page_lists_every_row(folder, capsys):
    missing = [f'z{i}.png,1,2,3,4,x' for i in range(9)]
    kinds = [*BAD_ROWS.values(), UNKNOWN_CLASS]
    rows = missing + [row for own, _ in kinds for row in own]
    assert run('explore', write_csv(folder, rows), folder, '--classes', 'x, y') == 0
    said, page = capsys.readouterr().out, (folder.parent / 'out.html').read_text()
    assert f'{2 + len(rows)} rows, 2 good images' in said and '... and 5 more' in said
    assert all(words[0] in said for _, words in kinds)
    assert all(f'all.csv, line {number} ' in page for number in range(4, 4 + len(rows)))


@pytest.mark.parametrize('tool', ['split', 'augment', 'explore'])
@pytest.mark.parametrize(('text', 'words'), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file__is_one_message(folder, capsys, tool, text, words):
    options = [] if tool == 'explore' else ['--skip-bad']  # of no help here
    path = write_text(folder.parent / 'all.csv', text)
    assert run(tool, path, folder, *options) == 2
    said = error_of(capsys)
    assert words in said and 'all.csv' in said


@pytest.mark.parametrize('name', ['../photos/a.png', 'ABSOLUTE'])
def test_augment__names_that_lead_elsewhere_would_overwrite_originals(folder, capsys, name):
    name = str(folder / 'a.png') if name == 'ABSOLUTE' else name
    before = (folder / 'a.png').read_bytes()
    path = write_text(folder.parent / 'all.csv', f'{HEADER}\n{name},1,2,3,4,x\n')
    assert run('augment', path, folder) == 2
    assert 'line 2: got the filename' in error_of(capsys)
    assert (folder / 'a.png').read_bytes() == before and len(list(folder.iterdir())) == 6


def arguments(*inputs: object, **options: object) -> argparse.Namespace:
    known = dict(images=None, truth=None, skip_bad=False)
    return argparse.Namespace(inputs=[str(entry) for entry in inputs], **(known | options))


@pytest.mark.parametrize('header', ['filename', HEADER])
def test_predict__photos_of_a_csv_in_its_order_and_under_its_names(folder, tmp_path, header):
    fields = ',1,2,3,4,x' if header == HEADER else ''
    path = write_text(tmp_path / 'test.csv', f'{header}\nc.png{fields}\n./a.png{fields}\n')
    photos, listed = list_photos(arguments(path, images=folder))
    assert photos == [folder / 'c.png', folder / 'a.png']
    submission = Submission(('x',), listed)
    empty = argparse.Namespace(scores=[])
    for photo in photos:
        submission.add(empty, str(photo), 'another name')
    assert submission.without == ['c.png', './a.png']


def test_predict__bad_rows_of_its_csv(folder, tmp_path, capsys):
    path = write_text(tmp_path / 'test.csv', 'filename\nz.png\na.png\n')
    with pytest.raises(
        ValueError, match='(?s)1 of 2 rows are bad.*does not exist.*test.csv, line 2'
    ):
        list_photos(arguments(path, images=folder))
    photos, _ = list_photos(arguments(path, images=folder, skip_bad=True))
    assert photos == [folder / 'a.png']
    assert '1 of 2 rows are bad and left out' in capsys.readouterr().out
    path.write_text('filename\nz.png\n')
    with pytest.raises(ValueError, match='no row with a photo is left'):
        list_photos(arguments(path, images=folder, skip_bad=True))


@pytest.mark.parametrize(
    ('inputs', 'options', 'words'),
    [
        (['test.csv'], {}, 'folder of its images as --images DIR'),
        (['test.csv', 'a.png'], dict(images='.'), 'expected it alone'),
        (['a.png'], dict(images='.'), '--images . is for a CSV'),
        (['a.png'], dict(skip_bad=True), '--skip-bad is for the rows of a CSV'),
    ],
    ids=['no-folder', 'among-others', 'folder-alone', 'skip-alone'],
)
def test_predict__options_that_do_not_fit(inputs, options, words):
    with pytest.raises(ValueError, match=words):
        list_photos(arguments(*inputs, **options))


def test_truth__bad_rows(folder, capsys):
    path = write_csv(folder, ['c.png,1,2,81,4,x'])
    photos = [folder / f'{name}.png' for name in 'abc']
    with pytest.raises(ValueError, match='(?s)1 of 3 rows are bad.*line 4.*--skip-bad'):
        read_truth(path, photos)
    truth = read_truth(path, photos, skip_bad=True)
    assert list(truth) == [str(folder / 'a.png'), str(folder / 'b.png')]
    assert '1 of 3 rows are bad and left out' in capsys.readouterr().out


def run_config(folder: Path, tmp_path: Path, ann_file: str) -> Path:
    """The shipped default on four photos, narrow, for one iteration."""
    shipped = 'localizer-votes_csp-n_1xb32-37e_face-mask.py'
    cfg = Config.fromfile(Path(__file__).resolve().parents[2] / 'configs' / 'localizer' / shipped)
    model = copy.deepcopy(SYSTEMS['localizer-votes'])
    model['head']['num_classes'] = 2
    cfg.model = model
    cfg.train_cfg.max_epochs = 1
    cfg.param_scheduler = [dict(type='ConstantLR', factor=1.0)]
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        data = dict(data_root=f'{tmp_path}/', ann_file=ann_file, data_prefix=dict(img='photos/'))
        loader.dataset.update(data, metainfo=dict(classes=('x', 'y')))
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.dump(tmp_path / 'run.py')
    return tmp_path / 'run.py'


@pytest.mark.slow
@pytest.mark.parametrize('name', [*BAD_ROWS, 'class'])
def test_train__stops_at_bad_rows(folder, tmp_path, capsys, name):
    rows, words = BAD_ROWS.get(name, UNKNOWN_CLASS)
    write_csv(folder, rows)
    config = run_config(folder, tmp_path, 'all.csv')
    assert train.main([str(config), '--work-dir', str(tmp_path / 'work')]) == 2
    said = error_of(capsys)
    assert all(word in said for word in [*words, 'rows are bad', 'skip_bad=True'])


@pytest.mark.slow
@pytest.mark.parametrize(('text', 'words'), BAD_FILES.values(), ids=BAD_FILES)
def test_train__stops_at_a_bad_file(folder, tmp_path, capsys, text, words):
    write_text(tmp_path / 'all.csv', text)
    config = run_config(folder, tmp_path, 'all.csv')
    assert train.main([str(config), '--work-dir', str(tmp_path / 'work')]) == 2
    assert words in error_of(capsys)


@pytest.mark.slow
def test_train__goes_on_without_bad_rows_and_test_wants_labels(folder, tmp_path, capsys):
    write_csv(folder, ['c.png,1,2,81,4,x'])
    config, work = run_config(folder, tmp_path, 'all.csv'), tmp_path / 'work'
    options = [f'{split}_dataloader.dataset.skip_bad=True' for split in ('train', 'val')]
    assert train.main([str(config), '--work-dir', str(work), '--cfg-options', *options]) == 0
    log = next(work.glob('*/*.log')).read_text()
    assert '1 of 3 rows are bad and left out (skip_bad)' in log and 'line 4' in log
    assert 'nothing in mmengine reads' not in log

    write_text(tmp_path / 'names.csv', 'filename\na.png\nb.png\n')
    config = run_config(folder, tmp_path, 'names.csv')
    (best,) = work.glob('best_localizer_IoU_epoch_*.pth')
    capsys.readouterr()
    assert test.main([str(config), str(best), '--work-dir', str(tmp_path / 'scores')]) == 2
    assert 'no box survives loading (2 images)' in error_of(capsys)
