"""Folding of norms into convolutions: its arithmetic, its blocks, and what the deploy form promises."""

import copy
import io

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from mmext.models.backbones.hgnet_blocks import ConvBN, ConvBNAct
from mmext.models.common.folding import (
    FoldedConv,
    fold_norm,
    fold_sequential,
    is_deployed,
    switch_to_deploy,
)
from mmext.models.deim.layers import ConvNorm, ConvNormAct, VGGBlock
from tests.models.deim_models import fill_by_name

BN = dict(type='BN')


def one_channel_norm(*, weight: float, bias: float, mean: float, var: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(1, eps=0.0).eval()
    with torch.no_grad():
        norm.weight.fill_(weight)
        norm.bias.fill_(bias)
        norm.running_mean.fill_(mean)
        norm.running_var.fill_(var)
    return norm


def random_map(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(('conv_bias', 'bias'), [(False, -5.0), (True, 10.0)])
def test_fold_norm__by_hand(conv_bias: bool, bias: float) -> None:
    # (x 2 [+ 5] - 4) / 2 * 3 + 1 = 3 x - 5, or 3 x + 2.5 with the convolution's bias
    conv = nn.Conv2d(1, 1, 1, bias=conv_bias)
    nn.init.constant_(conv.weight, 2.0)
    if conv_bias:
        nn.init.constant_(conv.bias, 10.0)  # / 2 * 3 = 15 more
    kernel = fold_norm(conv, one_channel_norm(weight=3, bias=1, mean=4, var=4))
    assert kernel.weight.item() == 3
    assert kernel.bias.item() == bias


def test_fold_norm__without_scale_and_bias() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 6.0)
    norm = nn.BatchNorm2d(1, eps=5.0, affine=False)
    norm.running_mean.fill_(9.0)
    norm.running_var.fill_(4.0)
    kernel = fold_norm(conv, norm)  # the root of 4 + 5 is 3
    assert kernel.weight.item() == pytest.approx(2, abs=1e-12)
    assert kernel.bias.item() == pytest.approx(-3, abs=1e-12)


@pytest.mark.parametrize(
    'norm',
    [nn.GroupNorm(1, 4), nn.BatchNorm2d(4, track_running_stats=False)],
    ids=['group norm', 'no statistics'],
)
def test_fold_norm__refuses_what_depends_on_the_input(norm: nn.Module) -> None:
    with pytest.raises(ValueError, match='expected a batch norm with running statistics'):
        fold_norm(nn.Conv2d(3, 4, 1), norm)


@pytest.mark.parametrize('scale', [0.75, 0.0, -1.5])
@pytest.mark.parametrize('bias', [0.5, -0.25])
def test_relu_with_scale_and_bias__is_a_bound(scale: float, bias: float) -> None:
    block = fill_by_name(
        ConvBNAct(3, 5, kernel_size=3, stride=2, use_lab=True, norm_cfg=BN), 'block.'
    )
    block.lab.scale.data.fill_(scale)
    block.lab.bias.data.fill_(bias)
    x = random_map(2, 3, 9, 11)
    expected = scale * block.bn(block.conv(x)).clamp(min=0) + bias
    switch_to_deploy(block)
    folded = block(x)
    assert (expected == bias).float().mean() > 0.2  # the bound is met
    torch.testing.assert_close(folded, expected, atol=1e-6, rtol=1e-6)


BLOCKS = {
    'ConvNorm': lambda: ConvNorm(6, 8, kernel_size=3, stride=2),
    'depthwise': lambda: ConvNorm(6, 6, kernel_size=3, groups=6),
    'ConvNormAct': lambda: ConvNormAct(6, 8),
    'VGGBlock': lambda: VGGBlock(6),
    'ConvBN': lambda: ConvBN(6, 8, kernel_size=5, norm_cfg=BN),
    'even kernel': lambda: ConvBNAct(6, 8, kernel_size=2, use_lab=False, norm_cfg=BN),
}


@pytest.mark.parametrize('name', BLOCKS)
def test_deploy__same_outputs_same_state(name: str) -> None:
    block = fill_by_name(BLOCKS[name](), 'block.')
    x = random_map(2, 6, 7, 10)
    expected, state = block(x), copy.deepcopy(block.state_dict())
    for _ in range(2):  # the second time changes nothing
        switch_to_deploy(block)
        assert is_deployed(block)
        torch.testing.assert_close(block(x), expected, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(dict(block.state_dict()), dict(state), atol=0, rtol=0)


def test_deploy__two_branches_are_one_convolution() -> None:
    block = fill_by_name(VGGBlock(6), 'block.')
    for _ in range(2):
        switch_to_deploy(block)
        assert len([part for part in block.modules() if isinstance(part, FoldedConv)]) == 1


@pytest.mark.parametrize(
    'load', [nn.Module.load_state_dict, load_state_dict], ids=['torch', 'mmengine']
)
@pytest.mark.parametrize('name', ['ConvNorm', 'VGGBlock', 'even kernel'])
def test_deploy__loads_checkpoints_of_the_training_form(name: str, load) -> None:
    source = fill_by_name(BLOCKS[name](), 'source.')
    deployed = fill_by_name(BLOCKS[name](), 'other.')
    switch_to_deploy(deployed)
    x = random_map(1, 6, 8, 8)
    expected = source(x)
    assert (deployed(x) - expected).abs().max() > 0.1
    load(deployed, source.state_dict(), strict=True)
    torch.testing.assert_close(deployed(x), expected, atol=2e-6, rtol=2e-6)


def test_deploy__copies_and_files_are_independent() -> None:
    block = fill_by_name(VGGBlock(6), 'block.')
    switch_to_deploy(block)
    x = random_map(1, 6, 8, 8)
    expected = block(x)
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    for other in (copy.deepcopy(block), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(x), expected)
        other.load_state_dict(fill_by_name(VGGBlock(6), 'other.').state_dict())
        assert (other(x) - expected).abs().max() > 0.1
    torch.testing.assert_close(block(x), expected)


def test_deploy__follows_dtype() -> None:
    block = fill_by_name(ConvNormAct(6, 8), 'block.')
    switch_to_deploy(block)
    assert block.double()(random_map(1, 6, 4, 4).double()).dtype == torch.float64


def test_deploy__training_is_refused() -> None:
    block = ConvNorm(2, 2)
    with pytest.raises(ValueError, match=r'in training mode .* Call eval\(\) before'):
        switch_to_deploy(block)
    switch_to_deploy(block.eval())
    with pytest.raises(ValueError, match=r'got train\(\) for a model in deploy form'):
        block.train()
    block.eval()


def test_fold_sequential__keeps_what_is_not_a_pair() -> None:
    conv, norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
    chain = nn.Sequential(nn.GELU(), conv, norm, nn.MaxPool2d(2), nn.BatchNorm2d(3))
    fill_by_name(chain, 'chain.')
    folded = fold_sequential(chain)
    kinds = [type(part) for part in folded]
    assert kinds == [nn.GELU, FoldedConv, nn.MaxPool2d, nn.BatchNorm2d]
    x = random_map(1, 2, 6, 6)
    torch.testing.assert_close(folded(x), chain(x), atol=1e-6, rtol=1e-6)
