"""Choice of the device, and what the set-up of processes refuses."""

import os
from pathlib import Path

import mmengine.device.utils as device_utils
import pytest
import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from torch import distributed, nn

from mmext.engine.dist import CPUDistributedDataParallel, set_device, setup_dist


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


def test_cpu_distributed__synchronized_batch_norm_becomes_plain(tmp_path: Path) -> None:
    # `sync_bn='torch'` in a config makes mmengine convert the model before it is wrapped.
    model = convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    images = torch.rand(2, 3, 4, 4)
    store = distributed.FileStore(str(tmp_path / 'store'), 1)
    distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match='SyncBatchNorm expected input tensor to be on GPU'):
            model(images)
        wrapped = CPUDistributedDataParallel(model)
        wrapped.module(images).square().sum().backward()
    finally:
        distributed.destroy_process_group()
    assert wrapped.module[1].running_mean.any() and wrapped.module[1].weight.grad is not None
    assert list(wrapped.module.state_dict()) == list(model.state_dict())
