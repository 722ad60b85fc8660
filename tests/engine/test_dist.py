"""Choice of the device, and what the set-up of processes refuses."""

import os

import mmengine.device.utils as device_utils
import pytest
import torch
from mmengine.config import Config

from mmext.engine.dist import set_device, setup_dist


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without a launcher's variables; everything is put back afterwards."""
    monkeypatch.setattr(device_utils, 'DEVICE', 'cpu')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR'):
        monkeypatch.delenv(name, raising=False)


def test_set_device__cpu_hides_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_utils, 'DEVICE', 'cuda')
    set_device('cpu')
    assert device_utils.get_device() == 'cpu'
    assert torch.cuda.device_count() == 0


@pytest.mark.parametrize(
    'name', ['gpu', 'cuda:x', 'cpu:1', ''], ids=['gpu', 'index', 'cpu', 'none']
)
def test_set_device__unknown_name(name: str) -> None:
    with pytest.raises(ValueError, match='expected cpu, cuda or cuda:<index>'):
        set_device(name)


def test_set_device__no_such_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(ValueError, match='torch sees 1 CUDA devices'):
        set_device('cuda:1')


def test_set_device__index_hides_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    set_device('cuda:1')
    assert device_utils.get_device() == 'cuda'
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '1'


def test_set_device__index_counts_the_devices_of_the_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,5')
    set_device('cuda:1')
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '5'


def test_setup_dist__without_launcher_changes_nothing() -> None:
    cfg = Config(dict(launcher='none'))
    setup_dist(cfg)
    assert 'model_wrapper_cfg' not in cfg


def test_setup_dist__missing_variables_name_torchrun() -> None:
    with pytest.raises(ValueError, match=r"\['RANK', 'WORLD_SIZE', 'MASTER_ADDR'\].*torchrun"):
        setup_dist(Config(dict(launcher='pytorch')))


def test_setup_dist__other_launchers_need_gpus() -> None:
    with pytest.raises(ValueError, match='slurm needs GPUs'):
        setup_dist(Config(dict(launcher='slurm')))
