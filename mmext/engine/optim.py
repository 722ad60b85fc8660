"""Optimizer set-up of the YOLO recipes: parameter groups by role, and bf16 training on the CPU."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import get_world_size
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mmext.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

ROLES = ('weight', 'norm', 'bias')


def parameter_role(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    """Says which group a parameter belongs to.

    Args:
        module: the module that owns the parameter.
        name: name of the parameter in that module.
        parameter: the parameter itself.

    Returns:
        'bias' for every bias (those of norm layers too), 'norm' for everything else that must not decay:
        vectors (norm weights, layer scales) and embeddings, and 'weight' for the matrices and kernels.
    """
    if name.endswith('bias'):
        return 'bias'
    if parameter.ndim < 2 or isinstance(module, nn.Embedding):
        return 'norm'
    return 'weight'


def group_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Sorts the trainable parameters of a model into the three roles of `ROLES`, each parameter once."""
    groups: dict[str, list[nn.Parameter]] = {role: [] for role in ROLES}
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                groups[parameter_role(module, name, parameter)].append(parameter)
    return groups


def matching_key(name: str, keys: Collection[str]) -> str | None:
    """The longest of the keys that is a part of a parameter's full name, None if none is."""
    return max((key for key in sorted(keys) if key in name), key=len, default=None)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class YOLOOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds an optimizer with the groups 'weight' (decays), 'norm' and 'bias' (do not).

    Each group carries its role under the key `role`, from which `mmext.YOLOWarmupHook` knows the biases.

    The weight decay of the config is meant for a batch of 64 images. Given `batch_size_per_gpu`, it is
    scaled by `batch_size_per_gpu * accumulative_counts * world size / 64`, so that the decay per image seen
    stays the same (YOLOv5 and v8 training recipes).

    Config::

        optim_wrapper = dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.01, momentum=0.937, nesterov=True, weight_decay=5e-4),
            constructor='mmext.YOLOOptimWrapperConstructor',
            paramwise_cfg=dict(batch_size_per_gpu=16, custom_keys={'decoder': dict(lr_mult=0.1)}))

    Args:
        optim_wrapper_cfg: config of the wrapper, with the entry `optimizer`.
        paramwise_cfg: None, or a dict with `batch_size_per_gpu` (int, absent: no scaling),
            `nominal_batch_size` (int, default 64) and `custom_keys`: a part of parameter names -> a dict with
            `lr_mult` and `decay_mult`, factors of what the parameters with such names would have otherwise. Of
            several keys that fit, the longest counts.

    Raises:
        ValueError: if `paramwise_cfg` or one of its `custom_keys` has an unknown key, if scaling is asked for
            without a weight decay, or if no parameter has one of the `custom_keys` for its longest.
    """

    OPTIONS = ('batch_size_per_gpu', 'nominal_batch_size', 'custom_keys')
    FACTORS = ('lr_mult', 'decay_mult')

    def _validate_cfg(self) -> None:
        unknown = sorted(set(self.paramwise_cfg) - set(self.OPTIONS))
        if unknown:
            raise ValueError(
                f'optim_wrapper.paramwise_cfg has the unknown keys {unknown}; '
                f'YOLOOptimWrapperConstructor knows {list(self.OPTIONS)}'
            )
        if 'batch_size_per_gpu' in self.paramwise_cfg and self.base_wd is None:
            raise ValueError(
                'optim_wrapper.paramwise_cfg.batch_size_per_gpu scales the weight decay, but '
                'optim_wrapper.optimizer has no weight_decay; set one or remove batch_size_per_gpu'
            )
        for key, factors in self.paramwise_cfg.get('custom_keys', {}).items():
            unknown = sorted(set(factors) - set(self.FACTORS))
            if unknown:
                raise ValueError(
                    f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}] has the unknown keys {unknown}; '
                    f'YOLOOptimWrapperConstructor knows {list(self.FACTORS)}'
                )

    def scaled_weight_decay(self) -> float:
        """Weight decay of the group 'weight'."""
        decay = self.base_wd or 0.0
        batch_size = self.paramwise_cfg.get('batch_size_per_gpu')
        if batch_size is None:
            return decay
        accumulation = self.optim_wrapper_cfg.get('accumulative_counts', 1)
        images_per_step = batch_size * accumulation * get_world_size()
        return decay * images_per_step / self.paramwise_cfg.get('nominal_batch_size', 64)

    def add_params(  # type: ignore[override]
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: object = None
    ) -> None:
        """Appends the groups of the whole model to `params`; an empty group is left out."""
        decays = {'weight': self.scaled_weight_decay(), 'norm': 0.0, 'bias': 0.0}
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        unused = set(custom_keys)
        for role, parameters in group_parameters(module).items():
            by_key: dict[str | None, list[nn.Parameter]] = {}
            for parameter in parameters:
                key = matching_key(names[id(parameter)], custom_keys)
                by_key.setdefault(key, []).append(parameter)
            unused -= set(by_key)
            for key, own in by_key.items():
                factors = custom_keys.get(key, {})
                group = dict(params=own, role=role)
                group['weight_decay'] = decays[role] * factors.get('decay_mult', 1.0)
                if 'lr_mult' in factors:
                    group['lr'] = self.base_lr * factors['lr_mult']
                params.append(group)
        if unused:
            raise ValueError(
                f'optim_wrapper.paramwise_cfg.custom_keys: no trainable parameter is left for {sorted(unused)}; '
                'correct or remove them'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        # The base class asks `add_params` for groups only where paramwise_cfg is not empty.
        self.paramwise_cfg.setdefault('nominal_batch_size', 64)
        return super().__call__(model)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision on the CPU: the forward pass runs in bfloat16 autocast.

    mmengine's AmpOptimWrapper asserts a GPU. bfloat16 has the exponent range of float32, so no loss scaling
    is needed and the optimizer step is the plain one.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Forward pass of a training step: autocast, and no gradient exchange while accumulating."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
