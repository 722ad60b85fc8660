"""Files like those that Ultralytics publishes: pickled modules of classes that mmext does not have.

The classes are made on the fly in a module that exists only while a file is written.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mmext.models.yolo.variants import Variant, part_configs
from mmext.models.yolo.weights import revert_state_dict
from mmext.registry import MODELS

FOREIGN_MODULE = 'ultralytics.nn.tasks'


def published_state_dict(
    version: str = 'v8',
    size: str = 'n',
    *,
    num_classes: int = 80,
    device: str = 'cpu',
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random weights under the published names; norm statistics differ from their start values."""
    configs = part_configs(Variant(version, size, num_classes, num_prototypes=32))
    with torch.device(device):
        parts = {name: MODELS.build(config) for name, config in configs.items()}
    state = {
        f'{part}.{name}': tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    generator = torch.Generator().manual_seed(seed)
    for tensor in state.values():
        if device == 'cpu' and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
        elif device == 'cpu':
            tensor.fill_(7)
    return revert_state_dict(state, version)


@contextmanager
def foreign_classes() -> Iterator[ModuleType]:
    """The foreign module with its class `SegmentationModel`, importable only inside the context."""
    module = ModuleType(FOREIGN_MODULE)
    foreign_class = type('SegmentationModel', (nn.Module,), {'__module__': FOREIGN_MODULE})
    module.SegmentationModel = foreign_class  # type: ignore[attr-defined]
    packages = [FOREIGN_MODULE.rsplit('.', depth)[0] for depth in (1, 2)]
    sys.modules.update({name: ModuleType(name) for name in packages} | {FOREIGN_MODULE: module})
    try:
        yield module
    finally:
        for name in (*packages, FOREIGN_MODULE):
            del sys.modules[name]


def module_tree(module_class: type[nn.Module], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Nested modules that hold the tensors under their dotted names."""
    root = module_class()
    for name, tensor in state_dict.items():
        *path, leaf = name.split('.')
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, module_class())
            module = module._modules[part]
        if 'running' in leaf or 'num_batches' in leaf:
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, nn.Parameter(tensor))
    return root


def write_published(
    path: Path, state_dict: Mapping[str, Tensor], *, key: str = 'model', **attributes: Any
) -> None:
    """Write a file with a pickled half-precision module.

    Args:
        path: The file.
        state_dict: Weights under the published names.
        key: Where the module goes, 'model' or 'ema'; the other entry is None.
        attributes: Attributes of the module, for example `names`.
    """
    with foreign_classes() as foreign:
        model = module_tree(foreign.SegmentationModel, state_dict).half()
        for name, value in attributes.items():
            setattr(model, name, value)
        arguments = dict(
            task='segment', save_dir=Path('runs')
        )  # the path is a foreign object as well
        content = {'epoch': -1, 'model': None, 'ema': None, 'train_args': arguments, key: model}
        torch.save(content, path)
