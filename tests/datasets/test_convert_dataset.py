"""What all converters share: the COCO files, the split, the report, exit codes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from mmext.datasets.converters.records import ImageRecord, RawDataset
from mmext.datasets.converters.splits import assign_splits
from mmext.datasets.converters.writer import write_coco
from mmext.datasets.report import Report
from mmext.tools.convert_dataset import main
from tests.datasets.raw_data import read_output, report, write_image, write_text
from tests.one_message import one_error


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twenty images, every second with a box."""
    folder = tmp_path / 'raw'
    write_text(folder / 'classes.txt', 'scratch\ndent\n')
    for index in range(20):
        write_image(folder / 'images' / f'{index:02d}.png', 40, 30, seed=index)
        lines = f'{index % 4 // 2} 0.5 0.5 0.5 0.4\n' if index % 2 else ''
        write_text(folder / 'labels' / f'{index:02d}.txt', lines)
    return folder


def test_writer__files_are_sound_coco(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert main(['yolo', str(raw), str(out)]) == 0
    image_ids: list[int] = []
    annotation_ids: list[int] = []
    for split in ('train', 'val', 'test'):
        coco = COCO(str(out / f'{split}.json'))
        assert coco.cats == {
            1: {'id': 1, 'name': 'scratch', 'supercategory': ''},
            2: {'id': 2, 'name': 'dent', 'supercategory': ''},
        }
        image_ids += coco.imgs
        annotation_ids += coco.anns
        for image in coco.imgs.values():
            copied = out / 'images' / image['file_name']
            assert copied.read_bytes() == (raw / image['file_name']).read_bytes()
        for annotation in coco.anns.values():
            assert annotation['bbox'] == [10, 9, 20, 12]
            assert (annotation['area'], annotation['iscrowd']) == (240, 0)
    assert sorted(image_ids) == list(range(1, 21))
    assert sorted(annotation_ids) == list(range(1, 11))


def test_writer__same_seed_same_split(raw: Path, tmp_path: Path) -> None:
    for name, seed in (('a', '3'), ('b', '3'), ('c', '4')):
        main(['yolo', str(raw), str(tmp_path / name), '--seed', seed])
    first, second, other = ((tmp_path / name / 'train.json').read_text() for name in 'abc')
    assert first == second != other


def test_writer__link_makes_no_copy_and_is_safe_to_repeat(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    before = (raw / 'images' / '03.png').read_bytes()
    for options in (['--link'], ['--link'], []):
        assert main(['yolo', str(raw), str(out), *options]) == 0
        assert (out / 'images' / 'images' / '03.png').samefile(raw / 'images' / '03.png')
        assert (raw / 'images' / '03.png').read_bytes() == before


def test_writer__split_of_an_earlier_conversion_is_removed(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    main(['yolo', str(raw), str(out)])
    main(['yolo', str(raw), str(out), '--fractions', '0.8', '0.2', '0'])
    assert not (out / 'test.json').exists()
    assert Counter(image['split'] for image in read_output(out).values()) == {'train': 16, 'val': 4}


def test_main__problems_are_warnings_unless_strict(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(raw / 'labels' / '01.txt', '7 0.5 0.5 0.5 0.4\n')
    arguments = ['yolo', str(raw), str(tmp_path / 'out')]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert 'warning: 1 x unknown class, object left out' in printed
    assert '01.txt (line 1: 7)' in printed
    assert main([*arguments, '--strict']) == 1


def test_main__strict_without_problems(raw: Path, tmp_path: Path) -> None:
    assert main(['yolo', str(raw), str(tmp_path / 'out'), '--strict']) == 0


@pytest.mark.parametrize('name', ['magnetic_tile', 'voc', 'yolo', 'masks'])
def test_main__unusable_input_is_one_line_and_exit_code_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'raw').mkdir()
    for raw in (tmp_path / 'raw', tmp_path / 'nowhere'):
        assert main([name, str(raw), str(tmp_path / 'out')]) == 2
        assert str(raw) in one_error(capsys)
    assert not (tmp_path / 'out').exists()


def test_main__all_images_bad_names_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / 'raw' / 'classes.txt', 'a')
    write_text(tmp_path / 'raw' / 'images' / 'bad.png', 'no image')
    assert main(['yolo', str(tmp_path / 'raw'), str(tmp_path / 'out')]) == 2
    error = one_error(capsys)
    assert '1 x unreadable or truncated image' in error and 'bad.png' in error


def test_main__out_below_raw_is_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['yolo', str(raw), str(raw / 'coco')]) == 2
    assert 'OUT lies in RAW' in capsys.readouterr().err


def test_main__out_that_is_a_file_is_refused(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = write_text(tmp_path / 'out', 'mine')
    assert main(['yolo', str(raw), str(out)]) == 2
    assert f'OUT ({out}) is a file' in one_error(capsys)
    assert out.read_text() == 'mine'


@pytest.mark.parametrize(
    ('name', 'option', 'value'),
    [('magnetic_tile', 'num-free', '-3'), ('masks', 'min-pixels', '2.5')],
)
def test_main__number_that_counts_nothing_is_refused(
    name: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, 'raw', 'out', f'--{option}={value}'])
    assert stopped.value.code == 2
    message = f'argument --{option}: got {value}, expected a whole number of 0 or more'
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['empty', 'truncated', 'text'])
def test_read__bad_image_is_left_out_and_named(kind: str, raw: Path, tmp_path: Path) -> None:
    bad = write_image(raw / 'images' / '05.jpg', 40, 30)
    (raw / 'images' / '05.png').unlink()
    content = bad.read_bytes()
    bad.write_bytes({'empty': b'', 'truncated': content[:-200], 'text': b'hello'}[kind])
    assert main(['yolo', str(raw), str(tmp_path / 'out')]) == 0
    assert '1 x unreadable or truncated image, left out' in report(tmp_path / 'out')
    assert str(bad) in report(tmp_path / 'out')
    output = read_output(tmp_path / 'out')
    assert len(output) == 19 and '05' not in output


def test_report__shows_the_first_and_counts_the_rest() -> None:
    found = Report()
    for index in range(8):
        found.problem('zero-size box', f'{index}.xml', 'object 1')
    found.note('speck', 'm.png')
    assert found.num_problems == 8
    assert found.text(max_shown=2).split('\n') == [
        'warning: 8 x zero-size box',
        '    0.xml (object 1)',
        '    1.xml (object 1)',
        '    ... and 6 more',
        'note: 1 x speck',
        '    m.png',
    ]
    assert found.text(max_shown=None).count('(object 1)') == 8


def _records(groups: list[tuple[str, str, int]]) -> list[ImageRecord]:
    return [
        ImageRecord(Path(f'{group}_{index}'), '', 1, 1, group=group, stratum=stratum)
        for group, stratum, count in groups
        for index in range(count)
    ]


def test_assign_splits__keeps_groups_whole_and_shares_equal() -> None:
    rng = np.random.default_rng(0)
    groups = [(f'g{i}', 'abc'[i % 3], int(rng.integers(1, 7))) for i in range(120)]
    images = _records(groups)
    assign_splits(images, (0.7, 0.15, 0.15), seed=0)
    by_group: dict[str, set] = {}
    for image in images:
        by_group.setdefault(image.group, set()).add(image.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    for stratum in 'abc':
        splits = Counter(image.split for image in images if image.stratum == stratum)
        total = sum(splits.values())
        shares = [splits[name] / total for name in ('train', 'val', 'test')]
        assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.02)


def test_assign_splits__every_split_gets_a_rare_class() -> None:
    images = _records([(f'r{i}', 'rare', 6) for i in range(5)] + [('free', 'free', 100)])
    assign_splits(images, (0.7, 0.15, 0.15), seed=0)
    rare = Counter(image.split for image in images if image.stratum == 'rare')
    assert rare == {'train': 18, 'val': 6, 'test': 6}


def test_assign_splits__respects_what_the_raw_data_says() -> None:
    images = _records([('a', 'x', 5), ('b', 'x', 5)])
    for image in images[:5]:
        image.split = 'test'
    assign_splits(images, (1, 0, 0), seed=0)
    assert [image.split for image in images] == ['test'] * 5 + ['train'] * 5


@pytest.mark.parametrize('fractions', [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_assign_splits__refuses_shares_that_are_none(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match='three shares that sum to 1'):
        assign_splits(_records([('a', 'x', 1)]), fractions, seed=0)


def test_dataset__two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"more than once: \['a'\], in \['a', 'b', 'a'\]"):
        RawDataset(['a', 'b', 'a'], [])


def test_writer__two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / 'a.png', 4, 4)
    images = [ImageRecord(path, 'same.png', 4, 4, split='train') for _ in range(2)]
    with pytest.raises(ValueError, match='Two images want the name same.png'):
        write_coco(RawDataset(['x'], images), tmp_path / 'out', Report(), link=False)
