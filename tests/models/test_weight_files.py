"""Reading weight files: where the tensors are, and files that hold none."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Size

from mmext.models.common.weight_files import check_complete, read_weight_file

ONE, TWO, THREE = (torch.full((2,), float(number)) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ('content', 'place', 'value'),
    [
        ({'model': {'w': ONE}, 'ema': {'module': {'w': TWO}, 'updates': 3}}, 'ema.module', TWO),
        ({'model': {'w': ONE}, 'ema': {'w': TWO}}, 'ema', TWO),
        ({'model': {'w': ONE}, 'ema': None}, 'model', ONE),
        ({'state_dict': {'module.w': ONE}, 'meta': {'w': THREE}}, 'state_dict', ONE),
        ({'w': THREE, 'epoch': 3}, '', THREE),
        ({'model': {'w': ONE}, 'scheduler': {'milestones': Counter([3])}}, 'model', ONE),
        ({'model': {'w': ONE}, 'args': Path('foreign')}, 'model', ONE),
    ],
    ids=['ema', 'flat-ema', 'no-ema', 'mmengine', 'flat', 'counter', 'foreign'],
)
def test_read__place_of_the_weights(
    content: dict[str, Any], place: str, value: torch.Tensor, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / 'x.pth')
    found = read_weight_file(tmp_path / 'x.pth')
    assert found.place == place
    assert list(found.tensors) == ['w'] and torch.equal(found.tensors['w'], value)


def test_read__safetensors(tmp_path: Path) -> None:
    save_file({'w': ONE}, tmp_path / 'x.safetensors')
    found = read_weight_file(tmp_path / 'x.safetensors')
    assert found.place == '' and torch.equal(found.tensors['w'], ONE)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('x.pth', {'epoch': 3, 'model': {}}, 'holds no weights: got the entries epoch, model'),
        ('x.pth', [1], 'holds no weights: got a list'),
        ('x.pth', b'text', 'not a checkpoint that torch'),
        ('x.pth', None, 'truncated'),
        ('x.safetensors', b'text', 'cannot be read as safetensors'),
        ('x.safetensors', {}, 'holds no weights'),
    ],
    ids=['no-model', 'list', 'text', 'truncated', 'no-safetensors', 'no-tensors'],
)
def test_read__unusable_file(name: str, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == '.safetensors':
        save_file(content, path)
    else:
        torch.save({'model': torch.ones(1000)} if content is None else content, path)
    if content is None:
        path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=message):
        read_weight_file(path)


def test_read__missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='absent'):
        read_weight_file(tmp_path / 'absent.pth')


def test_check_complete__lists_everything() -> None:
    expected = {'a': Size([2]), 'b': Size([3]), 'c': Size([1])}
    with pytest.raises(ValueError) as error:
        check_complete({'a': ONE, 'b': ONE, 'd': ONE}, expected, unknown=['e'], model='X')
    assert str(error.value) == (
        'the tensors do not fit X: e: not part of the model; d: not part of the model; '
        'c: missing; b: got [2], expected [3]'
    )
