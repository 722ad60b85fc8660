"""Reading configs: an error names the file that it is in, and what asks for a file that is not there."""

import re

import pytest
from mmengine.config import Config

from mmext.engine.config_file import load_config_file, merge_options


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


@pytest.mark.parametrize('is_base', [False, True], ids=['itself', 'of a base'])
@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = 1\nb = c\n', ", line 2: NameError: name 'c' is not defined"),
        ("a = 1\nb = 'x' + 1\n", ', line 2: TypeError: can only concatenate str'),
        ('def f():\n    return {}["k"]\n\na = f()\n', ", line 2: KeyError: 'k'"),
        ('a = 1\nb = dict(c=2\n', ", line 2: '(' was never closed: b = dict(c=2"),
        ('a = 1\n b = 2\n', ', line 2: unexpected indent: b = 2'),
    ],
    ids=['name', 'type', 'in a function', 'bracket', 'indent'],
)
def test_load_config_file__mistake_in_a_config_is_told_with_its_line(
    tmp_path, text, message, is_base
):
    broken, leaf = tmp_path / 'broken.py', tmp_path / 'leaf.py'
    broken.write_text(text)
    (tmp_path / 'sound.py').write_text('s = 1\n')
    leaf.write_text("_base_ = ['sound.py', 'broken.py']\n")
    with pytest.raises(ValueError) as error:
        load_config_file(leaf if is_base else broken)
    assert str(error.value).startswith(f'config {broken}{message}')


def test_load_config_file__other_kinds_of_mistakes_name_the_config(tmp_path):
    (tmp_path / 'a.json').write_text('{"a": 1')
    (tmp_path / 'a.txt').write_text('a = 1')
    with pytest.raises(ValueError, match=r'config .*a\.json: JSONDecodeError: '):
        load_config_file(tmp_path / 'a.json')
    with pytest.raises(ValueError, match=r'config .*a\.txt: OSError: Only py'):
        load_config_file(tmp_path / 'a.txt')
    with pytest.raises(ValueError, match=rf'config {tmp_path} is a folder'):
        load_config_file(tmp_path)


def test_merge_options__changes_what_the_paths_lead_to():
    cfg = Config(dict(a=dict(b=1), steps=[dict(c=1), dict(c=2)]))
    merge_options(cfg, {'a.b': 2, 'steps.1.c': 3, 'a.new.d': 4})
    assert cfg.to_dict() == dict(a=dict(b=2, new=dict(d=4)), steps=[dict(c=1), dict(c=3)])


@pytest.mark.parametrize('path', ['a.b.c', 'steps.9.c', 'steps.x.c'])
def test_merge_options__path_to_nowhere_is_named(path):
    cfg = Config(dict(a=dict(b=1), steps=[dict(c=1)]))
    with pytest.raises(ValueError, match=rf'--cfg-options {path}=5: '):
        merge_options(cfg, {path: 5})
