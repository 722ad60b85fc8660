"""Reading published checkpoints without importing or executing foreign code."""

import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmext.models.common.foreign_pickle import InertObject, load_inert, module_state
from mmext.models.yolo.variants import Variant, detect_variant
from mmext.models.yolo.weights import read_published
from tests.published_yolo import (
    FOREIGN_MODULE,
    foreign_classes,
    published_state_dict,
    write_published,
)


@pytest.fixture(scope='module')
def v8n() -> dict[str, Tensor]:
    return published_state_dict('v8', 'n', num_classes=3)


class _ImportBlocker:
    """Fails the test if anything tries to import the foreign package."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        assert not name.startswith('ultralytics'), 'foreign code was imported'


@pytest.mark.parametrize('key', ['model', 'ema'])
def test_read_published__half_precision_module_bit_equal_without_its_code(
    v8n: dict, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'published.pt'
    write_published(path, v8n, key=key, names={1: 'scratch', 0: 'dent', 2: 'crack'})
    monkeypatch.setattr(sys, 'meta_path', [_ImportBlocker(), *sys.meta_path])
    read = read_published(path)
    assert FOREIGN_MODULE not in sys.modules
    assert read.class_names == ('dent', 'scratch', 'crack')
    assert read.state_dict.keys() == v8n.keys()
    for name, tensor in v8n.items():
        expected = tensor.half() if tensor.is_floating_point() else tensor
        assert read.state_dict[name].dtype == expected.dtype, name
        assert torch.equal(read.state_dict[name], expected), name
    assert detect_variant(read.state_dict) == Variant('v8', 'n', 3, 32)


def test_read_published__average_is_preferred_to_the_raw_model(tmp_path: Path) -> None:
    with foreign_classes() as foreign:
        both = {}
        for number, key in enumerate(('model', 'ema')):
            both[key] = foreign.SegmentationModel()
            both[key].register_buffer('value', torch.tensor(number))
        torch.save(both, tmp_path / 'x.pt')
    assert read_published(tmp_path / 'x.pt').state_dict == {'value': torch.tensor(1)}


def test_read_published__plain_state_dict(tmp_path: Path) -> None:
    torch.save({'model': {'a.weight': torch.ones(2), 'step': 3}}, tmp_path / 'x.pt')
    read = read_published(tmp_path / 'x.pt')
    assert list(read.state_dict) == ['a.weight']
    assert read.class_names == ()


def test_module_state__skips_empty_entries_and_transient_buffers(tmp_path: Path) -> None:
    with foreign_classes() as foreign:
        model = foreign.SegmentationModel()
        model.conv = nn.Conv2d(1, 2, 1, bias=False)
        model.register_buffer('anchors', torch.ones(3), persistent=False)
        model.register_buffer('scale', torch.ones(3))
        model.register_module('absent', None)
        expected = model.state_dict()
        torch.save(model, tmp_path / 'x.pt')
    state = module_state(load_inert(tmp_path / 'x.pt'))
    assert state.keys() == expected.keys() == {'conv.weight', 'scale'}
    assert torch.equal(state['conv.weight'], expected['conv.weight'])


class _Attack:
    """Pickles as a call of a function with side effects."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> object:
        return self.call


def _attacks(marker: Path) -> dict[str, _Attack]:
    touch = f'open({str(marker)!r}, "w").close()'
    return {
        'os.system': _Attack(os.system, f'touch {marker}'),
        'exec': _Attack(exec, touch),
        'method': _Attack(getattr, _Attack(Path, str(marker)), 'touch'),
        'nested': _Attack(_Attack, _Attack(eval, touch)),
        'from_bytes': _Attack(
            torch.storage._load_from_bytes, pickle.dumps(_Attack(os.system, f'touch {marker}'))
        ),
    }


ATTACKS = list(_attacks(Path('marker')))


def test_attacks__are_real_for_a_plain_unpickler(tmp_path: Path) -> None:
    torch.save(_attacks(tmp_path / 'marker')['os.system'], tmp_path / 'x.pt')
    torch.load(tmp_path / 'x.pt', weights_only=False)
    assert (tmp_path / 'marker').exists()


@pytest.mark.parametrize('name', ATTACKS)
def test_read_published__hostile_file_runs_nothing(name: str, tmp_path: Path) -> None:
    torch.save({'model': _attacks(tmp_path / 'marker')[name]}, tmp_path / 'x.pt')
    with pytest.raises(ValueError, match='x.pt'):
        read_published(tmp_path / 'x.pt')
    assert os.listdir(tmp_path) == ['x.pt']


@pytest.mark.parametrize('name', ATTACKS)
def test_read_published__hostile_entry_beside_a_good_model_runs_nothing(
    name: str, tmp_path: Path
) -> None:
    attack = _attacks(tmp_path / 'marker')[name]
    torch.save({'model': {'weight': torch.ones(2)}, 'train_args': attack}, tmp_path / 'x.pt')
    assert torch.equal(read_published(tmp_path / 'x.pt').state_dict['weight'], torch.ones(2))
    assert os.listdir(tmp_path) == ['x.pt']


def test_load_inert__older_formats_are_refused_rather_than_unpickled(tmp_path: Path) -> None:
    attack = _attacks(tmp_path / 'marker')['os.system']
    torch.save({'model': attack}, tmp_path / 'x.pt', _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match='no zip file'):
        load_inert(tmp_path / 'x.pt')
    assert os.listdir(tmp_path) == ['x.pt']


def _truncated(path: Path) -> None:
    torch.save({'model': {'weight': torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:3000])


def _one_byte_off(path: Path) -> None:
    torch.save({'model': {'weight': torch.ones(1000)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(b'\x00\x00\x80\x3f' * 8) + 3] ^= 1
    path.write_bytes(content)


def _zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('notes.txt', 'no weights here')


def _torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), str(path))


def _foreign_data(path: Path) -> None:
    """A pickle that is cut off inside an intact zip file."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x/version', '3')
        archive.writestr('x/data.pkl', pickle.dumps({'model': list(range(1000))})[:50])


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (_truncated, 'truncated or damaged'),
        (_one_byte_off, 'damaged at its entry'),
        (_zip_of_text, 'zip file without a checkpoint'),
        (_torchscript, 'TorchScript'),
        (_foreign_data, 'cannot be read as a checkpoint'),
        (lambda path: path.write_bytes(b''), 'is empty'),
        (lambda path: path.write_text('a: 1\n'), 'no zip file'),
        (lambda path: torch.save({'epoch': 3}, path), 'holds no model'),
        (lambda path: torch.save({'model': {}}, path), 'holds no model'),
        (lambda path: torch.save({'model': [torch.ones(2)]}, path), 'holds no model'),
    ],
    ids=[
        'truncated',
        'one-byte-off',
        'zip-of-text',
        'torchscript',
        'cut-pickle',
        'empty',
        'text',
        'no-model',
        'no-tensors',
        'list-of-tensors',
    ],
)
def test_read_published__files_that_are_no_checkpoints(write, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'weights.pt'
    write(path)
    with pytest.raises(ValueError, match=message) as error:
        read_published(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_read_published__missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='absent.pt'):
        read_published(tmp_path / 'absent.pt')


def _inert(**attributes: object) -> InertObject:
    stub = InertObject()
    stub.__setstate__(attributes)
    return stub


def _looped() -> InertObject:
    stub = _inert()
    stub.__setstate__({'_modules': {'itself': stub}})
    return stub


@pytest.mark.parametrize(
    ('module', 'message'),
    [
        (_inert(_parameters={'weight': _inert()}), 'weight is not a tensor but InertObject'),
        (_inert(_modules={'a': _inert(_buffers={'b': 3})}), 'a.b is not a tensor but int'),
        (_inert(_modules=[1]), '_modules is not a dict but list'),
        (_inert(_modules={'a': 'text'}), 'a. is not a module but str'),
        (_looped(), 'itself. contains itself'),
    ],
    ids=['parameter', 'buffer', 'table', 'child', 'loop'],
)
def test_module_state__trees_that_are_no_modules(module: InertObject, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module_state(module)
