"""`eval_mattes` and `baseline_mattes` on files as tools write them."""

import json

import cv2
import numpy as np
import pytest

from mmext.evaluation.matte_scores import MatteScorer
from mmext.tools import baseline_mattes, eval_mattes
from tests.evaluation.test_mattes import disc, smooth
from tests.one_message import one_error


@pytest.fixture
def folders(tmp_path):
    pred, gt = tmp_path / 'pred', tmp_path / 'gt'
    pred.mkdir()
    gt.mkdir()
    return pred, gt


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


def grey(matte):
    return np.uint8(np.round(255 * matte))


def run(folders, *arguments):
    out = folders[0].parent / 'out' / 'scores.json'
    code = eval_mattes.main([*map(str, folders), '--out', str(out), *arguments])
    return code, json.loads(out.read_text()) if out.exists() else None


def test_eval__reads_what_tools_write(folders, capsys):
    pred, gt = folders
    alpha = grey(smooth(1))
    colour = np.random.default_rng(0).integers(0, 255, (26, 31, 3)).astype(np.uint8)
    write(pred / 'grey.png', alpha)
    write(pred / 'deep.png', alpha.astype(np.uint16) * 257)
    write(pred / 'x' / 'cut.png', np.dstack([colour, alpha]))
    write(pred / 'three.bmp', np.dstack([alpha] * 3))
    for name in ('grey', 'deep', 'x/cut', 'three'):
        write(gt / f'{name}.png', alpha)
    code, report = run(folders)
    assert code == 0 and report['not_scored'] == []
    assert list(report['images']) == ['deep', 'grey', 'three', 'x/cut']
    assert all(row['SAD_k'] == pytest.approx(0, abs=1e-6) for row in report['images'].values())
    assert 'x/cut' in capsys.readouterr().out


def test_eval__numbers_are_those_of_the_scorer(folders):
    pred, gt = folders
    pairs = [(grey(smooth(own)), grey(smooth(own + 5))) for own in range(2)]
    for name, (prediction, truth) in enumerate(pairs):
        write(pred / f'{name}.png', prediction)
        write(gt / f'{name}.png', truth)
    scorer = MatteScorer()
    images = [
        scorer.score('', own / np.float32(255), truth / np.float32(255)) for own, truth in pairs
    ]
    code, report = run(folders)
    assert code == 0
    assert report['summary'] == pytest.approx(scorer.summarise(images))


@pytest.mark.parametrize(
    ('other', 'expected'),
    [(1, 1.0), (255, 0.0)],
    ids=['masks-of-0-and-1', 'nearly-empty-among-soft'],
)
def test_eval__faint_predictions_are_masks_only_if_all_files_are(folders, other, expected):
    pred, gt = folders
    mask = disc(20).astype(np.uint8)
    for name, value in (('a', 1), ('b', other)):
        write(pred / f'{name}.png', value * mask)
        write(gt / f'{name}.png', 255 * mask)
    assert run(folders)[1]['images']['a']['IoU'] == expected


def test_eval__lists_all_that_is_wrong_and_scores_the_rest(folders, capsys):
    pred, gt = folders
    alpha = grey(disc(20))
    for name in ('good', 'size', 'broken', 'colour', 'missing'):
        write(gt / f'{name}.png', alpha)
    write(pred / 'good.png', alpha)
    write(pred / 'good.jpg', alpha)
    write(pred / 'size.png', alpha[:-1])
    write(pred / 'extra.png', alpha)
    write(pred / 'colour.png', np.dstack([alpha, alpha, 255 - alpha]))
    (pred / 'broken.png').write_bytes(b'no image')
    code, report = run(folders)
    assert code == 1
    assert list(report['images']) == ['good']
    reasons = {own['name']: own['reason'] for own in report['not_scored']}
    assert set(reasons) == {'good', 'size', 'broken', 'colour', 'missing', 'extra'}
    assert '64 x 63 pixels, expected 64 x 64' in reasons['size']
    assert str(pred) in reasons['missing'] and str(gt) in reasons['extra']
    error = capsys.readouterr().err
    assert all(f'  {name}: ' in error for name in reasons)


def test_eval__list_and_suffix_choose_files(folders):
    pred, gt = folders
    write(pred / 'a_alpha.png', grey(disc(20)))
    for name in 'abc':
        write(gt / f'{name}.png', grey(disc(20)))
    listing = pred.parent / 'val.txt'
    listing.write_text('# chosen\na.jpg\ta.png\n\n')
    code, report = run(folders, '--list', str(listing), '--pred-suffix', '_alpha')
    assert (code, list(report['images'])) == (0, ['a'])
    listing.write_text('a.jpg\nb.jpg\n')
    code, report = run(folders, '--list', str(listing), '--pred-suffix', '_alpha')
    assert code == 1 and [own['name'] for own in report['not_scored']] == ['b']


def test_eval__list_may_begin_with_a_byte_order_mark(folders):
    pred, gt = folders
    for folder in folders:
        write(folder / 'a.png', grey(disc(20)))
    listing = pred.parent / 'val.txt'
    listing.write_text('a.jpg\n', encoding='utf-8-sig')
    assert run(folders, '--list', str(listing))[0] == 0


def test_eval__table_begins_with_the_worst(folders, capsys):
    pred, gt = folders
    for name, radius in (('a', 18), ('b', 9), ('c', 20)):
        write(pred / f'{name}.png', grey(disc(radius)))
        write(gt / f'{name}.png', grey(disc(20)))
    table = pred.parent / 'new' / 'table.csv'
    code, report = run(folders, '--table', str(table))
    header, *rows = [line.split(',') for line in table.read_text().splitlines()]
    assert code == 0 and [row[0] for row in rows] == ['b', 'a', 'c']
    assert header == ['image', *report['images']['a']]
    assert float(rows[0][header.index('IoU')]) == pytest.approx(report['images']['b']['IoU'], 1e-5)
    assert run(folders, '--table', str(pred.parent / 'table.txt'))[0] == 2
    assert 'expected the name of a file ending in .csv' in one_error(capsys)


def test_eval__frames_of_clips_follow_their_numbers(folders):
    pred, gt = folders
    # Brighter by 20 / 255 a frame; sorted as text, 10 would come before 2.
    for frame in range(1, 12):
        write(pred / 'clip' / f'{frame}.png', np.full((8, 8), 20 * frame, np.uint8))
        write(gt / 'clip' / f'{frame}.png', np.full((8, 8), 255, np.uint8))
    code, report = run(folders, '--clips', '--metrics', 'error')
    assert code == 0
    assert report['summary']['dtSSD_x1e2'] == pytest.approx(100 * 20 / 255, rel=1e-5)
    (pred / 'clip' / '5.png').write_bytes(b'broken')
    code, report = run(folders, '--clips', '--metrics', 'error')
    # Frames 4 and 6 are no neighbours.
    assert code == 1 and report['summary']['dtSSD_x1e2'] == pytest.approx(100 * 20 / 255, rel=1e-5)


@pytest.mark.parametrize('kind', ['no-folder', 'empty', 'strangers', 'dtssd', 'lpips', 'list'])
def test_eval__mistakes_are_one_message(folders, capsys, kind):
    pred, gt = folders
    write(gt / 'a.png', grey(disc(20)))
    arguments = []
    if kind == 'no-folder':
        pred = pred / 'nowhere'
    elif kind == 'strangers':
        write(pred / 'b.png', grey(disc(20)))
    elif kind != 'empty':
        write(pred / 'a.png', grey(disc(20)))
        (pred.parent / 'list.txt').write_text('\n')
        arguments = {
            'dtssd': ['--metrics', 'dtssd'],
            'lpips': ['--metrics', 'lpips', '--lpips-files', 'a', 'b'],
            'list': ['--list', str(pred.parent / 'list.txt')],
        }[kind]
    assert eval_mattes.main([str(pred), str(gt), *arguments]) == 2
    words = {
        'no-folder': 'no folder',
        'empty': 'has no images',
        'strangers': '--pred-suffix',
        'dtssd': '--clips',
        'lpips': '--images',
        'list': 'names no image',
    }
    assert words[kind] in one_error(capsys)


def photo(seed=0):
    """A bright disc on dark ground, both noisy."""
    noise = np.random.default_rng(seed).normal(0, 8, (64, 64, 3))
    return np.clip(40 + 170 * disc(18)[..., None] + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('method', baseline_mattes.METHODS)
def test_baseline__cuts_an_easy_photo_out_and_always_alike(tmp_path, method):
    write(tmp_path / 'photos' / 'x' / 'a.png', photo())
    mattes = []
    for out in ('one', 'two'):
        assert baseline_mattes.main([method, str(tmp_path / 'photos'), str(tmp_path / out)]) == 0
        mattes.append(cv2.imread(str(tmp_path / out / 'x' / 'a.png'), cv2.IMREAD_UNCHANGED))
    assert mattes[0].shape == (64, 64) and set(np.unique(mattes[0])) == {0, 255}
    np.testing.assert_array_equal(*mattes)
    scorer = MatteScorer('region')
    # The watershed leaves its line to the background.
    assert scorer.row(scorer.score('a', mattes[0] / 255, disc(18)))['IoU'] > 0.85


@pytest.mark.parametrize('method', baseline_mattes.METHODS)
def test_baseline__a_plain_photo_has_a_matte_or_a_reason(tmp_path, method, capsys):
    write(tmp_path / 'photos' / 'a.png', np.full((40, 40, 3), 128, np.uint8))
    code = baseline_mattes.main([method, str(tmp_path / 'photos'), str(tmp_path / 'out')])
    assert code == 0 or 'a.png' in capsys.readouterr().err


def test_baseline__lists_what_it_cannot_cut(tmp_path, capsys):
    photos = tmp_path / 'photos'
    write(photos / 'good.png', photo())
    write(photos / 'small.png', photo()[:10])
    write(photos / 'good.bmp', photo())
    (photos / 'broken.png').write_bytes(b'no image')
    assert baseline_mattes.main(['watershed', str(photos), str(tmp_path / 'out')]) == 1
    error = capsys.readouterr().err
    assert all(name in error for name in ('small.png', 'good.png', 'broken.png'))
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['good.png']
    assert baseline_mattes.main(['watershed', str(photos), str(tmp_path / 'out')]) == 2
    assert 'not empty' in one_error(capsys)
