"""Checkpoints: what is refused, what is reported, and that mmengine has no other way to read them."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import CheckpointLoader
from torch import nn

from mmext.engine.checkpoint import (
    compare_keys,
    install_safe_loading,
    load_checkpoint_report,
    read_checkpoint,
)
from mmext.engine.hooks import CheckpointReportHook


class Foreign:
    """A class that no checkpoint may bring along; unpickling an object of it leaves a trace."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.trace,)


def toy() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / 'foreign.pth'
    torch.save({'model': Foreign(str(tmp_path / 'executed'))}, path)
    return path


def test_read__mmengine_checkpoint_with_log_history(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 2.0, 3.0], [1, 1, 1])
    content = dict(
        state_dict={'weight': torch.arange(3.0)},
        message_hub=dict(log_scalars={'train/loss': history}),
        meta=dict(epoch=3, score=np.float64(0.5), ids=np.arange(4), names=('a', 'b')),
    )
    torch.save(content, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    assert read['message_hub']['log_scalars']['train/loss'].mean() == 2.0
    assert read['meta']['score'] == 0.5
    assert read['meta']['ids'].tolist() == [0, 1, 2, 3]
    assert torch.equal(read['state_dict']['weight'], torch.arange(3.0))


def test_read__foreign_class_is_refused_unexecuted(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'foreign\.pth is refused.*mkdir.*convert_weights'):
        read_checkpoint(foreign)
    assert not (tmp_path / 'executed').exists()


def test_read__getattr_reaches_nothing_but_log_methods(tmp_path: Path) -> None:
    class Sneaky:
        def __reduce__(self) -> tuple:
            return getattr, (HistoryBuffer, '__init__')

    torch.save({'meta': Sneaky()}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'refused.*getattr'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is empty'),
        (b'no checkpoint at all', 'cannot be read'),
        (b'<!DOCTYPE html><html></html>', 'cannot be read'),
    ],
    ids=['zero bytes', 'text', 'web page'],
)
def test_read__no_checkpoint_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / 'bad.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'bad\.pth {message}'):
        read_checkpoint(path)


@pytest.mark.parametrize('share', [0.1, 0.5, 0.99])
def test_read__truncated_is_named(tmp_path: Path, share: float) -> None:
    torch.save({'state_dict': toy().state_dict()}, tmp_path / 'a.pth')
    data = (tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r'cut\.pth cannot be read: it is truncated'):
        read_checkpoint(tmp_path / 'cut.pth')


def test_read__missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'gone\.pth does not exist'):
        read_checkpoint(tmp_path / 'gone.pth')


@pytest.mark.parametrize('way', ['file', 'pretrained', 'download'])
def test_install__mmengine_refuses_foreign_classes(
    foreign: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_safe_loading()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    with pytest.raises(ValueError, match='refused'):
        if way == 'file':
            CheckpointLoader.load_checkpoint(str(foreign), 'cpu')
        elif way == 'pretrained':
            BaseModule(dict(type='Pretrained', checkpoint=str(foreign))).init_weights()
        else:
            # The loader of http:// addresses, given one that needs no server.
            CheckpointLoader._schemes['http://'](foreign.as_uri(), map_location='cpu')
    assert not (tmp_path / 'executed').exists()


def test_compare__four_kinds() -> None:
    state_dict = toy().state_dict()
    del state_dict['0.bias']
    state_dict['extra'] = torch.zeros(1)
    state_dict['2.weight'] = torch.zeros(7, 4)
    report = compare_keys(toy(), state_dict)
    assert report.missing == ['0.bias']
    assert report.unexpected == ['extra']
    assert report.mismatched == {'2.weight': ((7, 4), (2, 4))}
    # 9 entries of the model: 2 convolution, 5 norm, 2 linear.
    assert len(report.loaded) == 7
    lines = report.table().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ['loaded', '7'],
        ['missing', '1'],
        ['unexpected', '1'],
        ['mismatched', '1'],
    ]
    assert lines[3].endswith('2.weight (7, 4) -> (2, 4)')


def test_load__fills_what_fits_and_leaves_the_rest(tmp_path: Path) -> None:
    source, target = toy(), toy()
    kept = target[2].weight.detach().clone()
    state_dict = {f'module.{name}': value for name, value in source.state_dict().items()}
    state_dict['module.2.weight'] = torch.zeros(7, 4)
    torch.save({'state_dict': state_dict}, tmp_path / 'a.pth')
    report = load_checkpoint_report(target, tmp_path / 'a.pth')
    assert list(report.mismatched) == ['2.weight']
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[2].weight, kept)


def test_load__another_model_names_both(tmp_path: Path) -> None:
    torch.save({'stem.kernel': torch.zeros(3)}, tmp_path / 'other.pth')
    with pytest.raises(
        ValueError, match=r'(?s)other\.pth belongs to another model.*Sequential.*stem\.kernel'
    ):
        load_checkpoint_report(toy(), tmp_path / 'other.pth')


def test_load__require_all_refuses_random_parameters(tmp_path: Path) -> None:
    state_dict = toy().state_dict()
    state_dict['2.weight'] = torch.zeros(7, 4)
    torch.save(state_dict, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'(?s)1 of its parameters.*\(7, 4\) -> \(2, 4\)'):
        load_checkpoint_report(toy(), tmp_path / 'a.pth', require_all=True)


def test_load__require_all_allows_missing_counters(tmp_path: Path) -> None:
    state_dict = toy().state_dict()
    del state_dict['1.num_batches_tracked']
    torch.save(state_dict, tmp_path / 'a.pth')
    report = load_checkpoint_report(toy(), tmp_path / 'a.pth', require_all=True)
    assert report.missing == ['1.num_batches_tracked']


@pytest.mark.parametrize(
    ('require_all', 'resume', 'refused'),
    [(False, False, False), (True, False, True), (False, True, True)],
    ids=['fine-tune', 'test', 'resume'],
)
def test_hook__strict_for_test_and_resume(require_all: bool, resume: bool, refused: bool) -> None:
    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy()

        def forward(self) -> None: ...

    state_dict = Model().state_dict()
    del state_dict['net.0.bias']
    runner = SimpleNamespace(model=Model(), _load_from='a.pth', _resume=resume, work_dir='')
    hook = CheckpointReportHook(require_all=require_all)
    if refused:
        with pytest.raises(ValueError, match=r'a\.pth does not fit Model'):
            hook.after_load_checkpoint(runner, dict(state_dict=state_dict))
    else:
        hook.after_load_checkpoint(runner, dict(state_dict=state_dict))
