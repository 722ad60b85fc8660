"""The tool: what it writes, prints and reports, and how it answers mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmext.apis.background import BackgroundRemover
from mmext.apis.cutout import PartSeconds
from mmext.tools import remove_background
from tests.apis.test_video import NUM_FRAMES, break_frames, decoded, make_clip
from tests.one_message import one_error


def redness(image: np.ndarray) -> np.ndarray:
    """Stands in for the network."""
    return (image[..., 0] > 160).astype(np.float32)


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Config and checkpoint are not read; the other options count."""

    def make(args):
        return BackgroundRemover(redness, foreground=args.fg, tta=args.tta, snap=args.snap)

    monkeypatch.setattr(remove_background, 'make_remover', make)


def run(kind: str, source: Path, out: Path, *options: object) -> int:
    return remove_background.main(
        [kind, 'config.py', 'model.pth', str(source), str(out), *map(str, options)]
    )


def save_photo(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
    """The right half is red."""
    pixels = np.full((*size, 3), 50, np.uint8)
    pixels[:, size[1] // 2 :] = 220, 30, 20
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({'quality': 100} if path.suffix == '.jpg' else {}))
    return path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ('options', 'left'),
    [
        # Colours go on a little where nothing is seen of them, for programs that resize without regard to alpha.
        ((), (220, 30, 20, 0)),
        (('--rgba', '--fg', 'none'), (0, 0, 0, 0)),
        (('--bg', '#0080ff'), (0, 128, 255)),
        (('--bg', 'white', '--linear-light'), (255, 255, 255)),
        (('--bg', 'blur'), (50, 50, 50)),
        (('--alpha',), 0),
        (('--alpha', '--bits', '16'), 0),
    ],
    ids=['default', 'own colours', 'colour', 'linear light', 'blur', 'alpha', 'alpha of 16 bits'],
)
def test_image__products(tmp_path, capsys, options, left):
    source = save_photo(tmp_path / 'a.png')
    assert run('image', source, tmp_path / 'new' / 'cut.png', *options) == 0
    cut = read(tmp_path / 'new' / 'cut.png')
    assert cut.shape[:2] == (12, 10)
    assert np.array_equal(cut[4, 2], left)
    expected = {3: (220, 30, 20), 4: (220, 30, 20, 255)}
    full = 65535 if '16' in options else 255
    assert np.array_equal(cut[4, 8], expected[cut.shape[2]] if cut.ndim == 3 else full)
    assert 'written: ' in capsys.readouterr().out


def test_image__new_background_from_a_file(tmp_path):
    Image.new('RGB', (3, 3), (1, 2, 3)).save(tmp_path / 'wall.png')
    source = save_photo(tmp_path / 'a.png')
    assert run('image', source, tmp_path / 'cut.png', '--bg', tmp_path / 'wall.png') == 0
    assert read(tmp_path / 'cut.png')[4, 2].tolist() == [1, 2, 3]


def test_folder__99_of_100_are_done_and_one_is_listed(tmp_path, capsys):
    for index in range(99):
        save_photo(tmp_path / 'in' / f'{index % 3}' / f'{index}.png', (4, 6))
    (tmp_path / 'in' / '1' / 'broken.jpg').write_bytes(b'\xff\xd8 no photo')
    out = tmp_path / 'out'
    assert run('folder', tmp_path / 'in', out, '--batch-size', 4) == 2
    captured = capsys.readouterr()
    assert '1 of 100 photos could not be cut out' in captured.err
    assert captured.err.count('broken.jpg') == 1
    assert '99 done, 0 were there' in captured.out
    names = {path.relative_to(out).with_suffix('') for path in out.rglob('*.png')}
    assert names == {Path(f'{index % 3}/{index}') for index in range(99)}
    report = json.loads((out / 'report.json').read_text())
    assert report['num_done'] == len(report['photos']) == 99
    assert [Path(own['input']).name for own in report['failures']] == ['broken.jpg']
    assert set(report['seconds']) == {*PartSeconds._fields, 'total'}
    assert report['photos'][0]['height'] == 4
    # A second run tries that one again, and only it.
    assert run('folder', tmp_path / 'in', out, '--skip-existing') == 2
    captured = capsys.readouterr()
    assert '0 done, 99 were there' in captured.out
    assert '1 of 1 photos' in captured.err


def test_folder__equal_stems_and_several_products(tmp_path):
    save_photo(tmp_path / 'in' / 'a.jpg', (5, 8))
    save_photo(tmp_path / 'in' / 'a.png', (7, 4))
    assert run('folder', tmp_path / 'in', tmp_path / 'out', '--alpha', '--rgba') == 0
    for product, channels in (('alpha', ()), ('rgba', (4,))):
        assert read(tmp_path / 'out' / product / 'a.jpg.png').shape == (5, 8, *channels)
        assert read(tmp_path / 'out' / product / 'a.png.png').shape == (7, 4, *channels)
    # Complete only with all products: one is missing, and made again.
    (tmp_path / 'out' / 'alpha' / 'a.jpg.png').unlink()
    options = ('--alpha', '--rgba', '--skip-existing', '--report', tmp_path / 'r.json')
    assert run('folder', tmp_path / 'in', tmp_path / 'out', *options) == 0
    report = json.loads((tmp_path / 'r.json').read_text())
    assert report['num_done'] == 1 and len(report['skipped']) == 1
    assert (tmp_path / 'out' / 'alpha' / 'a.jpg.png').is_file()


def test_folder__files_of_other_kinds_are_counted(tmp_path, capsys):
    save_photo(tmp_path / 'in' / 'a.png')
    for name in ('x/1.HEIC', '2.heic', 'notes.txt', 'README', '.DS_Store', '.git/HEAD'):
        path = tmp_path / 'in' / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert run('folder', tmp_path / 'in', tmp_path / 'out') == 0
    message = 'left out, no images by their ending: 2 .heic, 1 without ending, 1 .txt'
    assert message in capsys.readouterr().out
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert sorted(Path(own).name for own in report['left_out']) == [
        '1.HEIC', '2.heic', 'README', 'notes.txt'
    ]  # fmt: skip


def test_video__alpha_to_prores_with_report(tmp_path, capsys):
    source = make_clip(tmp_path)
    assert run('video', source, tmp_path / 'cut.mov', '--smoothing', 0) == 0
    assert len(decoded(tmp_path / 'cut.mov')) == NUM_FRAMES
    report = json.loads((tmp_path / 'cut.mov.report.json').read_text())
    assert (report['num_frames'], report['num_broken'], report['audio']) == (NUM_FRAMES, 0, 'none')
    assert f'{NUM_FRAMES} frames' in capsys.readouterr().out


def test_video__broken_frames_are_reported_when_all_is_written(tmp_path, capsys):
    source = make_clip(tmp_path)
    break_frames(source, [2, 5])
    assert run('video', source, tmp_path / 'frames', '--alpha') == 2
    assert '2 frames could not be decoded' in one_error(capsys)
    assert len(list((tmp_path / 'frames').glob('*.png'))) == NUM_FRAMES


@pytest.mark.parametrize(
    ('kind', 'out', 'options', 'message'),
    [
        ('image', 'a.jpg', (), 'expected a name ending in .png'),
        ('image', 'a.png', ('--alpha', '--rgba'), 'got the products rgba, alpha, expected one'),
        ('image', 'in/a.png', (), 'is the input; choose another name'),
        ('image', 'a.png', ('--bg', 'no such colour'), "got 'no such colour', expected 'blur'"),
        ('image', 'a.png', ('--linear-light',), '--linear-light needs --bg'),
        ('image', 'a.png', ('--blur', '0.1'), '--blur needs --bg blur'),
        ('image', 'a.png', ('--bits', '16'), '--bits needs --alpha'),
        ('image', 'file/a.png', (), 'cannot write to the folder'),
        ('image', 'a.png', ('--snap', '0.7'), 'expected 0 <= snap < 0.5'),
        ('image', 'a.png', ('--bg', 'blur', '--blur', '3'), '0 < blur <= 1'),
        ('folder', 'in/out', (), 'the next run would take cut-outs for photos'),
        ('folder', 'file', (), 'cannot write to the folder'),
        ('folder', 'out', ('--workers', '0'), 'got 0, expected at least 1'),
        ('folder', 'out', ('--report', 'file/a.json'), 'cannot write to the folder'),
        ('video', 'a.mov', ('--report', 'file/a.json'), 'cannot write to the folder'),
        ('video', 'file/a.mov', (), 'cannot write to the folder'),
        ('video', 'file', (), 'is a file; expected a folder for PNG files'),
        ('video', 'out.avi', (), "got the ending '.avi'"),
    ],
)
def test_mistakes__one_message(tmp_path, capsys, kind, out, options, message):
    source = save_photo(tmp_path / 'in' / 'a.png')
    (tmp_path / 'file').touch()
    if kind == 'video':
        source = make_clip(tmp_path)
    folder = source.parent if kind == 'folder' else source
    options = [tmp_path / own if own.endswith('.json') else own for own in options]
    assert run(kind, folder, tmp_path / out, *options) == 2
    assert not (tmp_path / 'out').exists() or not any((tmp_path / 'out').iterdir())
    assert message in one_error(capsys)
    assert not list(tmp_path.rglob('*.part*'))


@pytest.mark.parametrize(
    ('kind', 'message'),
    [('image', 'is no file'), ('folder', 'has no images'), ('video', 'does not exist')],
)
def test_mistakes__empty_folder_for_an_input(tmp_path, capsys, kind, message):
    (tmp_path / 'in').mkdir()
    assert run(kind, tmp_path / 'in', tmp_path / 'out' / 'a.png') == 2
    assert message in one_error(capsys)
