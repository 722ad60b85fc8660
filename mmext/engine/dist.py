"""Devices and processes: choosing the device, and data-parallel training on the CPU."""

import os

import mmengine.device.utils as device_utils
import torch
from mmengine.config import ConfigDict
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed, nn

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def set_device(device: str) -> None:
    """Makes mmengine use one device: 'cpu', 'cuda' or 'cuda:<index>'.

    mmengine chooses once, at import, and has no setting for it. A GPU index is chosen by hiding the others,
    as CUDA_VISIBLE_DEVICES does on the command line; this works as long as CUDA has not been used yet.

    Raises:
        ValueError: if the name is none of the above, or there is no such device.
    """
    kind, _, index = device.partition(':')
    if kind not in ('cpu', 'cuda') or (index and not (kind == 'cuda' and index.isdigit())):
        raise ValueError(f'--device is {device!r}; expected cpu, cuda or cuda:<index>')
    if kind == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
    else:
        num_devices = torch.cuda.device_count()
        if num_devices <= int(index or 0):
            raise ValueError(
                f'--device is {device!r}, but torch sees {num_devices} CUDA devices; '
                'use --device cpu, or install a torch with CUDA'
            )
        if index:
            # The index counts the devices that are visible now, which a scheduler may have chosen.
            visible = os.environ.get('CUDA_VISIBLE_DEVICES')
            chosen = visible.split(',')[int(index)] if visible else index
            os.environ['CUDA_VISIBLE_DEVICES'] = chosen
    device_utils.DEVICE = kind


def setup_dist(cfg: ConfigDict) -> None:
    """Joins the process group on the CPU and writes into `cfg` what mmengine needs for it.

    Call before the Runner is built, with `cfg.launcher` set. Does nothing without a launcher, or on a GPU,
    where mmengine's own way works. On the CPU it fails three times: `init_dist` calls
    `torch.cuda.set_device`, `wrap_model` gives DDP the index of a GPU, and DDP refuses SyncBN.

    Raises:
        ValueError: if the launcher cannot run on the CPU, or its environment variables are missing.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none' or device_utils.get_device() != 'cpu':
        return
    if launcher != 'pytorch':
        raise ValueError(
            f'--launcher {launcher} needs GPUs; on the CPU use --launcher pytorch under torchrun'
        )
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR') if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher pytorch, but the environment variables {missing} are not set; '
            'start with torchrun, for example: torchrun --nproc_per_node 2 tools/train.py '
            'CONFIG --launcher pytorch (or tools/dist_train.sh CONFIG 2)'
        )
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    wrapper = cfg.get('model_wrapper_cfg') or {}
    cfg.model_wrapper_cfg = {
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **wrapper,
        'type': 'CPUDistributedDataParallel',
        'device_ids': None,
    }


# In mmengine's own registry, since mmext has none of this kind; `setup_dist` is its only user.
@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """Data-parallel training on the CPU.

    Synchronized BatchNorm exists on GPUs only, and DDP refuses it on the CPU; it becomes plain BatchNorm, as mmengine
    does in a single process. `mmext.AverageBuffersHook` keeps its statistics equal in all processes.

    Args:
        module: the model, on the CPU.
        device_ids: None; mmengine always passes it, and DDP knows no devices on the CPU.
        find_unused_parameters: whether parameters may be without a gradient.
        broadcast_buffers: whether the first process overwrites the buffers of the others in each step.
        detect_anomalous_params: whether to name parameters without a gradient.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: None = None,
        *,
        find_unused_parameters: bool = False,
        broadcast_buffers: bool = False,
        detect_anomalous_params: bool = False,
    ) -> None:
        super().__init__(
            revert_sync_batchnorm(module),
            detect_anomalous_params=detect_anomalous_params,
            device_ids=device_ids,
            find_unused_parameters=find_unused_parameters,
            broadcast_buffers=broadcast_buffers,
        )
