"""Reading the lists of a COCO file; data sets and preflight test the errors that their users meet."""

import json
from pathlib import Path

import pytest

from mmext.structures.coco import is_box, read_coco_lists

SOUND = {
    'images': [{'id': 3, 'width': 40, 'height': 30}],
    'annotations': [{'id': 11, 'image_id': 3, 'category_id': 7}],
    'categories': [{'id': 7, 'name': 'dent'}],
}


def write(folder: Path, content: object) -> str:
    path = folder / 'ann.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_read_coco_lists__gives_the_content(tmp_path):
    assert read_coco_lists(write(tmp_path, SOUND), None) == SOUND


def test_read_coco_lists__asks_for_the_keys_that_are_needed(tmp_path):
    path = write(tmp_path, SOUND)
    read_coco_lists(path, None, image_keys=('width',), annotation_keys=('image_id',))
    with pytest.raises(ValueError, match=r"entry 0 of 'images' lacks \['file_name'\]"):
        read_coco_lists(path, None, image_keys=('file_name',))
    with pytest.raises(ValueError, match=r"entry 0 of 'annotations' lacks \['area'\]"):
        read_coco_lists(path, None, annotation_keys=('area',))


@pytest.mark.parametrize('name', SOUND)
def test_read_coco_lists__every_list_and_every_id_is_needed(tmp_path, name):
    without = {key: value for key, value in SOUND.items() if key != name}
    with pytest.raises(ValueError, match=f"has no list '{name}'"):
        read_coco_lists(write(tmp_path, without), None)
    with pytest.raises(ValueError, match=rf"entry 1 of '{name}' lacks \['id'"):
        read_coco_lists(write(tmp_path, SOUND | {name: [*SOUND[name], {}]}), None)
    with pytest.raises(ValueError, match=f"occurs twice in '{name}'"):
        read_coco_lists(write(tmp_path, SOUND | {name: SOUND[name] * 2}), None)


@pytest.mark.parametrize(
    ('bbox', 'expected'),
    [
        ([1, 2, 3.5, -4], True),
        ([1, 2, 3], False),
        ([1, 2, 3, float('nan')], False),
        ([1, 2, 3, float('inf')], False),
        ([1, 2, 3, '4'], False),
        (None, False),
    ],
    ids=['numbers', 'three', 'nan', 'inf', 'text', 'null'],
)
def test_is_box(bbox, expected):
    assert is_box(bbox) is expected
