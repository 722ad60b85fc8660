"""`LocalizationDataset`: good files, and every mistake with its line."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmext.datasets import LocalizationDataset
from mmext.datasets.localization_csv import read_rows, write_rows
from mmext.datasets.report import Report
from tests.datasets.raw_data import EXIF_TURNED, write_image, write_text

HEADER = 'filename,xmin,ymin,xmax,ymax,class'
GOOD = ['a.png,10,20,30,40,mask', 'b.png,0,0,80,60,bare']
CLASSES = ('bare', 'mask')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Images of 80 x 60: a.png to d.png, one on its side, one that is none."""
    root = tmp_path_factory.mktemp('photos')
    for name in 'abcd':
        write_image(root / f'{name}.png', 80, 60)
    write_image(root / 'turned.jpg', 60, 80, EXIF_TURNED)
    write_text(root / 'text.png', 'no image')
    return root


def read(folder: Path, path: Path, **settings: object) -> LocalizationDataset:
    settings = dict(metainfo=dict(classes=CLASSES), data_prefix=dict(img=str(folder))) | settings
    return LocalizationDataset(str(path), **settings)


def csv(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    return write_text(tmp_path / 'train.csv', '\n'.join([header, *lines]) + '\n')


def test_csv__pixels(tmp_path, folder):
    dataset = read(folder, csv(tmp_path, *GOOD))
    assert len(dataset) == 2
    info = dataset.get_data_info(0)
    assert info['img_path'] == str(folder / 'a.png')
    assert (info['img_id'], info['height'], info['width']) == (0, 60, 80)
    assert info['instances'] == [dict(bbox=[10, 20, 30, 40], bbox_label=1, ignore_flag=0)]


def test_csv__normalised_boxes_become_pixels(tmp_path, folder):
    dataset = read(folder, csv(tmp_path, 'a.png,0.25,0.5,0.75,1,mask'))
    assert dataset.get_data_info(0)['instances'][0]['bbox'] == [20, 30, 60, 60]


def test_csv__other_columns_in_any_order_blank_lines_and_a_byte_order_mark(tmp_path, folder):
    lines = ['80,mask,a.png,10,20,30,40', '', ' 80 , bare , b.png , 1 , 2 , 3 , 4 ']
    path = csv(tmp_path, *lines, header='\ufeffwidth,class,filename,xmin,ymin,xmax,ymax')
    dataset = read(folder, path)
    assert [dataset.get_data_info(i)['instances'][0]['bbox'] for i in range(2)] == [
        [10, 20, 30, 40],
        [1, 2, 3, 4],
    ]


def test_csv__names_alone_are_images_without_labels(tmp_path, folder):
    dataset = read(folder, csv(tmp_path, 'a.png', 'b.png', header='filename'), test_mode=True)
    assert [dataset.get_data_info(i)['instances'] for i in range(2)] == [[], []]


def test_csv__box_in_the_frame_of_the_upright_photo(tmp_path, folder):
    dataset = read(folder, csv(tmp_path, 'turned.jpg,0,0,80,60,mask'))
    assert dataset.get_data_info(0)['width'] == 80


def test_csv__classes_of_the_file_where_none_are_given(tmp_path, folder):
    dataset = read(folder, csv(tmp_path, *GOOD), metainfo=None)
    assert dataset.metainfo['classes'] == ('bare', 'mask')


def test_csv__rounding_over_the_edge_is_clipped(tmp_path, folder):
    dataset = read(folder, csv(tmp_path, 'a.png,-0.05,0,80.05,60,mask'))
    assert dataset.get_data_info(0)['instances'][0]['bbox'] == [0, 0, 80, 60]


BAD_ROWS = {
    'class': ('c.png,1,2,3,4,hat', "unknown class.*line 4 .got 'hat', expected one of bare, mask"),
    'missing-image': ('z.png,1,2,3,4,mask', 'image that does not exist.*line 4 .*z.png'),
    'no-image': ('text.png,1,2,3,4,mask', 'image that cannot be read.*line 4 .*text.png'),
    'duplicate': (GOOD[0], 'duplicate row.*line 4 .a.png: as train.csv, line 2'),
    'second-row': (
        'a.png,1,2,3,4,mask',
        'image with more than one row.*line 2 .a.png: lines 2 and 4',
    ),
    'second-row-under-another-spelling': ('./a.png,1,2,3,4,mask', 'image with more than one row'),
    'outside': ('c.png,50,10,81,20,mask', 'reaches outside the image.*line 4 .*81, 20 in 80 x 60'),
    'negative': ('c.png,-1,10,8,20,mask', 'reaches outside the image.*line 4'),
    'normalised': (
        'c.png,0.1,0.2,0.5,1,mask',
        r'in \[0, 1\], while most of the file are in pixels.*line 4',
    ),
    'inverted': ('c.png,30,10,20,20,mask', 'box without area.*line 4 .*expected xmin < xmax'),
    'no-height': ('c.png,10,20,20,20,mask', 'box without area.*line 4'),
    'word': ('c.png,10,ten,20,20,mask', 'not four numbers.*line 4 .*ten'),
    'nan': ('c.png,10,nan,20,20,mask', 'not four numbers.*line 4'),
    'infinite': ('c.png,10,2,20,inf,mask', 'not four numbers.*line 4'),
    'too-few': ('c.png,10,20,30', 'another length than the header.*line 4 .4 fields, 6'),
    'too-many': ('c.png,10,20,30,40,mask,1', 'another length than the header.*line 4'),
    'empty-class': ('c.png,10,20,30,40,', 'empty field.*line 4 .class'),
    'empty-name': (',10,20,30,40,mask', 'empty field.*line 4 .filename'),
}
bad_rows = pytest.mark.parametrize(('row', 'words'), BAD_ROWS.values(), ids=BAD_ROWS)


@bad_rows
def test_bad_row__is_named_with_its_line(tmp_path, folder, row, words):
    with pytest.raises(ValueError, match=f'(?s)rows are bad.*{words}.*skip_bad=True'):
        read(folder, csv(tmp_path, *GOOD, row))


@bad_rows
def test_bad_row__is_left_out_under_skip_bad(tmp_path, folder, row, words, caplog):
    dataset = read(folder, csv(tmp_path, *GOOD, row), skip_bad=True)
    names = [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]
    # Which of two rows of an image is right nobody knows: both go.
    assert names == (['b.png'] if 'more than one row' in words else ['a.png', 'b.png'])


def test_bad_rows__pixels_among_normalised(tmp_path, folder):
    lines = ['a.png,0,0,0.5,1,mask', 'b.png,0,0,0.5,0.5,mask', 'c.png,0,0,40,60,mask']
    with pytest.raises(ValueError, match='1 of 3 rows(.|\n)*most of the file are normalised'):
        read(folder, csv(tmp_path, *lines))


def test_bad_rows__each_is_counted_once(tmp_path, folder):
    rows = ['x.png,1,2,3,4,hat', 'c.png,9,9,1,1,hat', 'd.png,1,2,3,4,mask', 'd.png,1,2,3,5,mask']
    with pytest.raises(ValueError, match='4 of 6 rows are bad'):
        read(folder, csv(tmp_path, *GOOD, *rows))


def test_bad_rows__none_is_left(tmp_path, folder):
    with pytest.raises(ValueError, match='no image with one object is left'):
        read(folder, csv(tmp_path, 'z.png,1,2,3,4,mask'), skip_bad=True)


BAD_FILES = {
    'empty': ('', 'is empty: got nothing'),
    'header-only': (HEADER + '\n', 'is empty: got only the header'),
    'missing-column': (
        'filename,xmin,ymin,xmax,class\na,1,2,3,b\n',
        r"line 1: the file lacks the columns \['ymax'\]",
    ),
    'no-class': ('filename,xmin,ymin,xmax,ymax\na,1,2,3,4\n', r"lacks the columns \['class'\]"),
    'no-names': ('xmin,ymin,xmax,ymax,class\n1,2,3,4,b\n', r"lacks the columns \['filename'\]"),
    'semicolons': (HEADER.replace(',', ';') + '\na;1;2;3;4;b\n', 'by commas, not semicolons'),
    'column-twice': (HEADER + ',class\na,1,2,3,4,b,b\n', r"has the columns \['class'\] twice"),
    'quotes': (HEADER + '\n"a"b,1,2,3,4,c\n', 'is no CSV file'),
}


@pytest.mark.parametrize(('text', 'words'), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(tmp_path, folder, text, words):
    with pytest.raises(ValueError, match=words):
        read(folder, write_text(tmp_path / 'train.csv', text))


def test_bad_file__missing_binary_or_of_another_kind(tmp_path, folder):
    with pytest.raises(ValueError, match='does not exist; expected a CSV file'):
        read(folder, tmp_path / 'none.csv')
    (tmp_path / 'binary.csv').write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match='no CSV file in UTF-8'):
        read(folder, tmp_path / 'binary.csv')
    with pytest.raises(ValueError, match=r'expected a \.csv or a COCO \.json'):
        read(folder, tmp_path / 'train.txt')


@pytest.mark.parametrize('classes', ['mask', ('mask', 'mask'), ()], ids=str)
def test_classes__must_be_different_names(tmp_path, folder, classes):
    with pytest.raises(ValueError, match='expected different names'):
        read(folder, csv(tmp_path, *GOOD), metainfo=dict(classes=classes))


def test_coco__keeps_the_images_with_one_object(tmp_path, folder):
    images = [dict(id=i, file_name=f'{n}.png', width=80, height=60) for i, n in enumerate('abcd')]
    boxes = [(0, 1, 0), (1, 1, 0), (1, 2, 0), (3, 2, 0), (3, 2, 1)]  # image, category, crowd
    annotations = [
        dict(id=i, image_id=image, category_id=kind, bbox=[5, 6, 10, 20], area=200, iscrowd=crowd)
        for i, (image, kind, crowd) in enumerate(boxes)
    ]
    categories = [dict(id=1, name='bare'), dict(id=2, name='mask')]
    path = tmp_path / 'train.json'
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    dataset = read(folder, path)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [(Path(i['img_path']).name, i['img_id']) for i in infos] == [('a.png', 0), ('d.png', 3)]
    assert [i['instances'][0]['bbox_label'] for i in infos] == [0, 1]
    assert infos[0]['instances'][0]['bbox'] == [5, 6, 15, 26]


def test_write_rows__reads_back(tmp_path):
    rows = [('sub/a,b.png', (0.1, 2.0, 1 / 3, 4.25), 'with "mask"'), ('c.png', (1, 2, 30, 40), 'ä')]
    write_rows(tmp_path / 'out' / 'x.csv', rows[:1])
    write_rows(tmp_path / 'out' / 'y.csv', rows[1:])
    for name, row in zip('xy', rows, strict=True):
        (got,), number = read_rows(tmp_path / 'out' / f'{name}.csv', Report())
        assert (got.filename, got.category, number) == (row[0], row[2], 1)
        np.testing.assert_allclose(got.box, row[1], rtol=1e-9)
