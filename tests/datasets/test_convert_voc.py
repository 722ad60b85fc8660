"""Pascal VOC files to COCO: the frame of the boxes, where images lie, bad input."""

from pathlib import Path

import pytest

from mmext.tools.convert_dataset import main
from tests.datasets.raw_data import (
    EXIF_TURNED,
    boxes,
    convert,
    read_output,
    report,
    write_image,
    write_text,
)


def _xml(
    *objects: tuple[str, object, object, object, object],
    filename: str = 'a.jpg',
    size: tuple[int, int] | None = (40, 30),
    extra: str = '',
) -> str:
    parts = [f'<filename>{filename}</filename>']
    if size is not None:
        parts.append(
            f'<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>'
        )
    for name, *corners in objects:
        keys = ('xmin', 'ymin', 'xmax', 'ymax')
        box = ''.join(f'<{key}>{value}</{key}>' for key, value in zip(keys, corners, strict=True))
        parts.append(f'<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>')
    return f'<annotation>{"".join(parts)}</annotation>'


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / 'raw'
    write_image(folder / 'JPEGImages' / 'a.jpg', 40, 30)
    write_text(
        folder / 'Annotations' / 'a.xml', _xml(('dog', 1, 1, 40, 30), ('cat', 11, 6, 20, 25))
    )
    return folder


def _bad(raw: Path, text: str, *, image: bool = True) -> Path:
    """A second image with this XML text."""
    if image:
        write_image(raw / 'JPEGImages' / 'b.jpg', 40, 30)
    return write_text(raw / 'Annotations' / 'b.xml', text)


def test_boxes__count_from_one_and_include_the_last_pixel(raw: Path, tmp_path: Path) -> None:
    (image,) = convert('voc', raw, tmp_path / 'out').values()
    assert boxes(image) == [('dog', [0, 0, 40, 30]), ('cat', [10, 5, 10, 20])]
    assert image['objects'][1][1]['area'] == 200
    assert (image['width'], image['height']) == (40, 30)
    assert report(tmp_path / 'out') == 'no problems found\n'


def test_boxes__first_pixel_0(raw: Path, tmp_path: Path) -> None:
    options = ('--first-pixel', '0', '--fractions', '1', '0', '0')
    (image,) = convert('voc', raw, tmp_path / 'out', *options).values()
    assert boxes(image)[1] == ('cat', [11, 6, 9, 19])


def test_difficult__becomes_iscrowd(raw: Path, tmp_path: Path) -> None:
    _bad(raw, _xml(('dog', 1, 1, 5, 5), filename='b.jpg', extra='<difficult>1</difficult>'))
    images = convert('voc', raw, tmp_path / 'out')
    assert [annotation['iscrowd'] for _, annotation in images['b']['objects']] == [1]
    assert [annotation['iscrowd'] for _, annotation in images['a']['objects']] == [0, 0]


def test_splits__from_image_sets(raw: Path, tmp_path: Path) -> None:
    for name in 'bcd':
        write_image(raw / 'JPEGImages' / f'{name}.jpg', 40, 30)
        write_text(raw / 'Annotations' / f'{name}.xml', _xml(filename=f'{name}.jpg'))
    sets = raw / 'ImageSets' / 'Main'
    write_text(sets / 'train.txt', 'a\nb\n')
    write_text(sets / 'val.txt', 'c\nb\nlost\n')
    images = convert('voc', raw, tmp_path / 'out', '--fractions', '0', '0', '1')
    assert {name: image['split'] for name, image in images.items()} == {
        'a': 'train',
        'b': 'train',
        'c': 'val',
        'd': 'test',
    }
    assert 'image in two splits, kept in train' in report(tmp_path / 'out')
    assert 'val.txt (lost)' in report(tmp_path / 'out')


@pytest.mark.parametrize('filename', ['c.png', r'C:\photos\c.png', 'c', 'other.jpg', ''])
def test_image__found_beside_the_file_whatever_filename_says(filename: str, tmp_path: Path) -> None:
    write_image(tmp_path / 'raw' / 'deep' / 'c.png', 40, 30)
    write_text(tmp_path / 'raw' / 'deep' / 'c.xml', _xml(('dog', 1, 1, 5, 5), filename=filename))
    images = convert('voc', tmp_path / 'raw', tmp_path / 'out')
    assert images['c']['file_name'] == 'deep/c.png'


@pytest.mark.parametrize('stated', [(40, 30), (30, 40)], ids=['upright', 'as stored'])
def test_size__of_an_image_with_exif_rotation_is_that_of_the_annotation(
    stated: tuple[int, int], tmp_path: Path
) -> None:
    raw = tmp_path / 'raw'
    write_image(raw / 'JPEGImages' / 'a.jpg', 30, 40, EXIF_TURNED)
    write_text(raw / 'Annotations' / 'a.xml', _xml(('dog', 1, 1, 5, 5), size=stated))
    (image,) = convert('voc', raw, tmp_path / 'out').values()
    assert (image['width'], image['height']) == stated


def test_classes__given_by_option_keep_their_order(raw: Path, tmp_path: Path) -> None:
    options = ('--classes', 'dog, cat', '--fractions', '1', '0', '0')
    (image,) = convert('voc', raw, tmp_path / 'out', *options).values()
    ids = {name: annotation['category_id'] for name, annotation in image['objects']}
    assert ids == {'dog': 1, 'cat': 2}


@pytest.mark.parametrize(
    ('text', 'message', 'detail'),
    [
        (
            _xml(('dog', 5, 5, 5, 9)),
            'zero-size box, object left out',
            'b.xml (object 1: [5.0, 5.0, 5.0, 9.0])',
        ),
        (_xml(('dog', 9, 5, 5, 9)), 'zero-size box, object left out', 'b.xml (object 1: [9.0,'),
        (_xml(('cow', 1, 1, 5, 9)), 'unknown class, object left out', "b.xml (object 1: 'cow')"),
        (
            _xml(('dog', 1, 1, '', 9)),
            'box without four numbers, object left out',
            'b.xml (object 1)',
        ),
        (
            _xml(('dog', 1, 1, 'x', 9)),
            'box without four numbers, object left out',
            'b.xml (object 1)',
        ),
        (
            _xml(('dog', 60, 1, 70, 9)),
            'box outside the image, object left out',
            'an image of 40 x 30',
        ),
    ],
    ids=['zero', 'negative', 'class', 'no number', 'text', 'outside'],
)
def test_bad_object__is_left_out_and_named(
    text: str, message: str, detail: str, raw: Path, tmp_path: Path
) -> None:
    write_text(raw / 'classes.txt', 'cat\ndog\n')
    _bad(raw, text.replace('a.jpg', 'b.jpg'))
    images = convert('voc', raw, tmp_path / 'out')
    assert boxes(images['b']) == []
    assert len(images['a']['objects']) == 2
    assert f'warning: 1 x {message}' in report(tmp_path / 'out')
    assert detail in report(tmp_path / 'out')


def test_box_over_the_edge__is_clipped_and_named(raw: Path, tmp_path: Path) -> None:
    _bad(raw, _xml(('dog', 31, 21, 50, 35), filename='b.jpg'))
    images = convert('voc', raw, tmp_path / 'out')
    assert boxes(images['b']) == [('dog', [30, 20, 10, 10])]
    assert '1 x box reaches outside the image, clipped' in report(tmp_path / 'out')


@pytest.mark.parametrize(
    ('text', 'image', 'message', 'detail'),
    [
        (_xml(filename='b.jpg'), False, 'missing image, left out', 'JPEGImages/b.jpg'),
        (
            _xml(filename='b.jpg', size=(80, 60)),
            True,
            'size that differs from the file, image left out',
            'b.jpg (annotation 80 x 60, file 40 x 30)',
        ),
        ('<annotation><object>', True, 'malformed XML, image left out', 'b.xml (no element found'),
        ('', True, 'malformed XML, image left out', 'b.xml'),
        ('<svg></svg>', True, 'XML without <annotation>, left out', 'b.xml (<svg>)'),
    ],
    ids=['missing', 'size', 'malformed', 'empty', 'not voc'],
)
def test_bad_image__is_left_out_and_named(
    text: str, image: bool, message: str, detail: str, raw: Path, tmp_path: Path
) -> None:
    _bad(raw, text, image=image)
    assert list(convert('voc', raw, tmp_path / 'out')) == ['a']
    assert f'warning: 1 x {message}' in report(tmp_path / 'out')
    assert detail in report(tmp_path / 'out')


@pytest.mark.parametrize('size', [None, (0, 0)], ids=['none', 'zero'])
def test_size__missing_in_the_file_is_taken_from_the_image(
    size: tuple[int, int] | None, raw: Path, tmp_path: Path
) -> None:
    _bad(raw, _xml(('dog', 1, 1, 5, 5), filename='b.jpg', size=size))
    images = convert('voc', raw, tmp_path / 'out')
    assert (images['b']['width'], images['b']['height']) == (40, 30)
    assert '1 x no size in the XML file, taken from the image' in report(tmp_path / 'out')


def test_several_problems__are_counted_in_one_report(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _bad(raw, _xml(('dog', 5, 5, 5, 9), ('dog', 6, 6, 6, 9), ('dog', 1, 1, 9, 9), filename='b.jpg'))
    write_text(raw / 'Annotations' / 'c.xml', 'x')
    assert main(['voc', str(raw), str(tmp_path / 'out')]) == 0
    printed = capsys.readouterr().out
    assert 'warning: 2 x zero-size box' in printed and 'warning: 1 x malformed XML' in printed
    assert sum(len(image['objects']) for image in read_output(tmp_path / 'out').values()) == 3
