"""MatteDataset: pairs by name, lists, and one report about all that does not fit together."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmext.datasets import MatteDataset

PIPELINE = [
    dict(type='mmext.LoadImage'),
    dict(type='mmext.LoadAlpha'),
    dict(type='mmext.PackMatteInputs'),
]


def _write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6), 255, np.uint8)).save(path)


def _dataset(root: Path, **settings: object) -> MatteDataset:
    settings.setdefault('data_prefix', dict(img='images', alpha='alpha'))
    return MatteDataset(data_root=str(root), pipeline=PIPELINE, **settings)


def test_folders__pair_by_path_up_to_the_last_dot(tmp_path: Path) -> None:
    _write(tmp_path, 'images/a.b.jpg', 'images/a.c.jpg', 'images/sub/a.png', 'images/UP.JPG')
    _write(tmp_path, 'alpha/a.b.png', 'alpha/a.c.png', 'alpha/sub/a.png', 'alpha/UP.png')
    (tmp_path / 'images' / 'notes.txt').write_text('no image')
    dataset = _dataset(tmp_path)
    pairs = [
        tuple(
            Path(dataset.get_data_info(i)[key]).relative_to(tmp_path).as_posix()
            for key in ('img_path', 'alpha_path')
        )
        for i in range(len(dataset))
    ]
    assert pairs == [
        ('images/UP.JPG', 'alpha/UP.png'),
        ('images/a.b.jpg', 'alpha/a.b.png'),
        ('images/a.c.jpg', 'alpha/a.c.png'),
        ('images/sub/a.png', 'alpha/sub/a.png'),
    ]
    assert dataset[0]['data_samples'].gt_alpha.data.min() == 1
    assert dataset.metainfo['classes'] == ('background', 'foreground')


def test_list__names_images_and_perhaps_their_mattes(tmp_path: Path) -> None:
    _write(tmp_path, 'images/a 1.jpg', 'images/b.jpg', 'images/unused.jpg')
    _write(tmp_path, 'alpha/a 1.png', 'alpha/other/c.png', 'alpha/left over.png')
    (tmp_path / 'list.txt').write_text('# a comment\na 1.jpg\n\nb.jpg\tother/c.png\n')
    dataset = _dataset(tmp_path, ann_file='list.txt')
    alphas = [Path(dataset.get_data_info(i)['alpha_path']).name for i in range(len(dataset))]
    assert alphas == ['a 1.png', 'c.png']


def test_foreground__comes_along(tmp_path: Path) -> None:
    _write(tmp_path, 'images/a.jpg', 'alpha/a.png', 'colours/a.png', 'colours/b.png')
    prefix = dict(img='images', alpha='alpha', foreground='colours')
    info = _dataset(tmp_path, data_prefix=prefix).get_data_info(0)
    assert info['foreground_path'] == str(tmp_path / 'colours' / 'a.png')


def test_errors__all_in_one_report(tmp_path: Path) -> None:
    _write(tmp_path, 'images/a.jpg', 'images/a.png', 'images/b.jpg', 'images/good.jpg')
    _write(tmp_path, 'alpha/a.png', 'alpha/good.png', 'alpha/good.webp', 'alpha/lonely.png')
    with pytest.raises(ValueError) as error:
        _dataset(tmp_path)
    text = str(error.value)
    assert f'1 x alpha file without image\n    {tmp_path}/alpha/lonely.png' in text
    assert f'1 x image without alpha file\n    {tmp_path}/images/b.jpg' in text
    assert '2 x two files of one name' in text
    assert f'{tmp_path}/images/a.jpg (a.png)' in text
    assert f'{tmp_path}/alpha/good.png (good.webp)' in text


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        ('a.jpg\nmissing.jpg\n', r'listed file is not there\n .*missing.jpg \(line 2\)'),
        ('a.jpg\ta.webp\n', r'listed file is not there\n .*a.webp \(line 1\)'),
        ('a.jpg\na.jpg\n', r'image listed twice\n .*a.jpg \(line 2\)'),
        ('\n# nothing\n', 'list that names no image'),
        (b'\xff\xfe\x00\x80', 'no text file in UTF-8'),
        (None, 'The list .*list.txt does not exist'),
    ],
    ids=['missing image', 'missing alpha', 'twice', 'empty', 'binary', 'no list'],
)
def test_errors__of_a_list(content: str | bytes | None, text: str, tmp_path: Path) -> None:
    _write(tmp_path, 'images/a.jpg', 'alpha/a.png')
    if isinstance(content, bytes):
        (tmp_path / 'list.txt').write_bytes(content)
    elif content is not None:
        (tmp_path / 'list.txt').write_text(content)
    with pytest.raises(ValueError, match=text):
        _dataset(tmp_path, ann_file='list.txt')


def test_errors__folders_and_prefix(tmp_path: Path) -> None:
    _write(tmp_path, 'images/a.jpg')
    with pytest.raises(ValueError, match='alpha does not exist'):
        _dataset(tmp_path)
    (tmp_path / 'alpha').mkdir()
    with pytest.raises(ValueError, match='alpha holds no image files'):
        _dataset(tmp_path)
    with pytest.raises(ValueError, match=r"keys \['img', 'mask'\]; expected img and alpha"):
        _dataset(tmp_path, data_prefix=dict(img='images', mask='alpha'))
