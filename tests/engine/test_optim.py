"""Parameter groups and mixed precision, against values worked out by hand."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmext.engine.optim import CPUAmpOptimWrapper, group_parameters


class Toy(nn.Module):
    """One parameter of each kind, one frozen, one shared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.embedding = nn.Embedding(5, 6)
        self.linear = nn.Linear(6, 5, bias=False)
        self.tied = self.linear
        self.scale = nn.Parameter(torch.ones(4))
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


def build(model: nn.Module, paramwise_cfg: dict | None, **options: object) -> object:
    optimizer = dict(type='SGD', lr=0.1, weight_decay=0.5)
    if options.pop('no_decay', False):
        del optimizer['weight_decay']
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=optimizer,
            constructor='mmext.YOLOOptimWrapperConstructor',
            paramwise_cfg=paramwise_cfg,
            **options,
        ),
    )


def test_group_parameters__each_kind_once_in_its_role() -> None:
    model = Toy()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        role: [names[id(parameter)] for parameter in parameters]
        for role, parameters in group_parameters(model).items()
    }
    assert groups == {
        'weight': ['conv.weight', 'linear.weight'],
        'norm': ['scale', 'norm.weight', 'embedding.weight'],
        'bias': ['conv.bias', 'norm.bias'],
    }


@pytest.mark.parametrize(
    ('paramwise_cfg', 'options', 'expected'),
    [
        (None, {}, 0.5),
        (dict(batch_size_per_gpu=16), {}, 0.125),
        (dict(batch_size_per_gpu=16), dict(accumulative_counts=4), 0.5),
        (dict(batch_size_per_gpu=8, nominal_batch_size=4), {}, 1.0),
    ],
    ids=['unscaled', 'batch', 'accumulation', 'nominal'],
)
def test_constructor__weight_decay_per_group(
    paramwise_cfg: dict | None, options: dict, expected: float
) -> None:
    wrapper = build(Toy(), paramwise_cfg, **options)
    decays = {group['role']: group['weight_decay'] for group in wrapper.optimizer.param_groups}
    assert decays == {'weight': expected, 'norm': 0.0, 'bias': 0.0}


def test_constructor__a_step_without_gradient_shrinks_weights_alone() -> None:
    model = Toy()
    before = {name: value.clone() for name, value in model.named_parameters()}
    wrapper = build(model, None)
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            parameter.grad = torch.zeros_like(parameter)
    wrapper.optimizer.step()
    for name, value in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in ('conv.weight', 'linear.weight') else 1.0
        torch.testing.assert_close(value, before[name] * factor, msg=name)


def test_constructor__unknown_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown keys \['norm_decay_mult'\].*batch_size_per_gpu"):
        build(Toy(), dict(norm_decay_mult=0.0))


def test_constructor__scaling_without_decay_is_refused() -> None:
    with pytest.raises(ValueError, match='no weight_decay'):
        build(Toy(), dict(batch_size_per_gpu=16), no_decay=True)


def test_constructor__custom_keys_scale_rate_and_decay_by_role() -> None:
    model = Toy()
    custom_keys = {
        'conv': dict(lr_mult=0.5),
        'conv.w': dict(lr_mult=2.0, decay_mult=0.1),  # longer, so it wins for the weight
        'norm': dict(decay_mult=3.0),
    }
    wrapper = build(model, dict(custom_keys=custom_keys))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group['role'], group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    assert found == {
        'conv.weight': ('weight', 0.2, 0.05),
        'conv.bias': ('bias', 0.05, 0.0),
        'norm.weight': ('norm', 0.1, 0.0),
        'norm.bias': ('bias', 0.1, 0.0),
        'embedding.weight': ('norm', 0.1, 0.0),
        'linear.weight': ('weight', 0.1, 0.5),
        'scale': ('norm', 0.1, 0.0),
    }


@pytest.mark.parametrize(
    ('custom_keys', 'message'),
    [
        ({'conv': dict(lr=0.1)}, r"custom_keys\['conv'\] has the unknown keys \['lr'\].*lr_mult"),
        ({'decoder': dict(lr_mult=0.1)}, r"no trainable parameter is left for \['decoder'\]"),
        ({'frozen': dict(lr_mult=0.1)}, r"no trainable parameter is left for \['frozen'\]"),
    ],
    ids=['unknown-factor', 'misspelt', 'frozen'],
)
def test_constructor__custom_key_without_effect_is_named(custom_keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(Toy(), dict(custom_keys=custom_keys))


def test_cpu_amp__forward_in_bfloat16_and_update_in_float32() -> None:
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    wrapper = CPUAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    with wrapper.optim_context(model):
        output = model(torch.ones(2, 4))
    assert output.dtype == torch.bfloat16
    wrapper.update_params(output.float().sum())
    assert model.weight.dtype == torch.float32
    # d(sum)/dw = number of rows = 2, exact in bfloat16; rate 1.
    torch.testing.assert_close(model.weight.detach(), before - 2)
