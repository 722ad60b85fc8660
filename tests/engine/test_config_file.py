"""Reading configs: an error about `_base_` names the file that asks and the file that is not there."""

import re

import pytest

from mmext.engine.config_file import load_config_file


def test_load_config_file__inherits(tmp_path):
    (tmp_path / 'base.py').write_text('a = 1\nb = 2\n')
    (tmp_path / 'leaf.py').write_text("_base_ = 'base.py'\nb = 3\n")
    cfg = load_config_file(tmp_path / 'leaf.py')
    assert (cfg.a, cfg.b) == (1, 3)


def test_load_config_file__missing_config(tmp_path):
    with pytest.raises(FileNotFoundError, match='config .*gone.py does not exist'):
        load_config_file(tmp_path / 'gone.py')


@pytest.mark.parametrize(
    ('base', 'asking', 'line'),
    [
        ("a = 1\n_base_ = ['gone.py']\n", 'leaf.py', 2),
        ("_base_ = [\n    'sound.py',\n    'parts/gone.py',\n]\n", 'leaf.py', 3),
        ("_base_ = 'asking.py'\n", 'asking.py', 1),
        ("_base_ = 'mmext::_base_/runtime/gone.py'\n", 'leaf.py', 1),
    ],
    ids=['itself', 'second of two', 'of a base', 'of a package'],
)
def test_load_config_file__missing_base_names_who_asks_for_it(tmp_path, base, asking, line):
    (tmp_path / 'sound.py').write_text('a = 1\n')
    (tmp_path / 'asking.py').write_text("_base_ = './gone.py'\n")
    (tmp_path / 'leaf.py').write_text(base)
    where = re.escape(f'config {tmp_path / asking}, line {line}: `_base_` names ')
    with pytest.raises(FileNotFoundError, match=rf"{where}'\S*gone\.py', .*gone\.py"):
        load_config_file(tmp_path / 'leaf.py')


def test_load_config_file__other_missing_files_are_reported_as_they_are(tmp_path):
    (tmp_path / 'leaf.py').write_text("text = open('gone.txt').read()\n")
    with pytest.raises(FileNotFoundError, match='gone.txt') as error:
        load_config_file(tmp_path / 'leaf.py')
    assert '_base_' not in str(error.value)
