"""HGNetv2, the convolutional backbone of DEIMv2; parity with the published one is in `test_deim_encoders.py`."""

import math

import pytest
import torch
from torch import nn

from mmext.models.backbones.hgnet_blocks import LearnableAffine, Stem
from mmext.models.backbones.hgnetv2 import ARCHS, HGNetv2

# Stem and stages of 'atto', as a config states them.
ATTO = dict(
    stem_channels=(16, 16),
    stages=[
        dict(mid_channels=16, out_channels=64, num_blocks=1, kernel_size=3, num_layers=3, light=False),
        dict(mid_channels=32, out_channels=256, num_blocks=1, kernel_size=3, num_layers=3, light=False),
        dict(mid_channels=64, out_channels=256, num_blocks=1, kernel_size=3, num_layers=3, light=True),
    ],
)  # fmt: skip


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def norms_of(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def trained_names(module: nn.Module) -> set[str]:
    """The parameters that a backward pass through all outputs reaches."""
    outputs = module(torch.rand(2, 3, 64, 64))
    sum(output.square().mean() for output in outputs).backward()
    return {name for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ('arch', 'channels'),
    [
        ('atto', (64, 256, 256)),
        ('femto', (64, 256, 512)),
        ('pico', (64, 256, 512)),
        ('b0', (64, 256, 512, 1024)),
        ('b2', (96, 384, 768, 1536)),
        pytest.param('b4', (128, 512, 1024, 2048), marks=pytest.mark.slow),
        pytest.param('b5', (128, 512, 1024, 2048), marks=pytest.mark.slow),
    ],
)
def test_backbone__channels_of_all_stages(arch: str, channels: tuple[int, ...]) -> None:
    with torch.device('meta'):
        backbone = HGNetv2(arch, out_indices=range(len(channels)))
        outputs = backbone(torch.empty(1, 3, 64, 64))
    assert tuple(output.shape[1] for output in outputs) == backbone.out_channels == channels


@pytest.fixture(scope='module')
def four_stages() -> HGNetv2:
    """For tests that change nothing."""
    return HGNetv2('b0', out_indices=range(4)).eval()


@pytest.mark.parametrize(
    'size', [(64, 96), (75, 49), (33, 33), (5, 70)], ids='{0[0]}x{0[1]}'.format
)
@torch.no_grad()
def test_backbone__sizes_are_rounded_up(four_stages: HGNetv2, size: tuple[int, int]) -> None:
    outputs = four_stages(torch.rand(1, 3, *size))
    strides = (4, 8, 16, 32)
    expected = [(math.ceil(size[0] / s), math.ceil(size[1] / s)) for s in strides]
    assert [tuple(output.shape[2:]) for output in outputs] == expected


def test_backbone__leaves_out_what_is_behind_the_last_output() -> None:
    with torch.device('meta'):
        backbone, whole = HGNetv2('b0', out_indices=(0, 1)), HGNetv2('b0')
    assert len(backbone.stages) == 2
    kept = [n for n in whole.state_dict() if not n.startswith(('stages.2.', 'stages.3.'))]
    assert list(backbone.state_dict()) == kept


@pytest.mark.parametrize('use_lab', [True, False], ids=['lab', 'no-lab'])
def test_backbone__every_parameter_gets_a_gradient(use_lab: bool) -> None:
    # In eval: the statistics of a batch take a learned scale in front of a convolution out again.
    backbone = HGNetv2('atto', out_indices=(2,), use_lab=use_lab).eval()
    trained_names(backbone)
    without = {n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == set()


@pytest.mark.parametrize('arch', ARCHS)
def test_backbone__learnable_affine_behind_every_activation_or_nowhere(arch: str) -> None:
    with torch.device('meta'):
        backbone = HGNetv2(arch, out_indices=(len(ARCHS[arch].stages) - 1,))
    layers, aggregated, stem = 0, 0, 5
    for stage in ARCHS[arch].stages:
        layers += stage.num_blocks * stage.num_layers
        aggregated += stage.num_blocks * 2
    count = sum(isinstance(module, LearnableAffine) for module in backbone.modules())
    assert count == (0 if arch in ('b4', 'b5') else stem + layers + aggregated)


def test_backbone__use_lab_overrides_the_arch() -> None:
    names = [name for name, _ in HGNetv2('b0', use_lab=False).named_parameters()]
    assert names
    assert not any('lab' in name for name in names)


def test_backbone__arch_from_a_config_equals_the_named_one() -> None:
    named = HGNetv2('atto', out_indices=(0, 1, 2)).eval()
    stated = HGNetv2(ATTO, out_indices=(0, 1, 2)).eval()
    stated.load_state_dict(named.state_dict())
    image = torch.rand(1, 3, 64, 64)
    for output, expected in zip(stated(image), named(image), strict=True):
        torch.testing.assert_close(output, expected, rtol=0, atol=0)


def test_stem__pools_and_convolves_windows_that_begin_at_each_cell() -> None:
    stem = Stem(3, 4, 8, use_lab=False, norm_cfg=dict(type='BN')).eval()
    image = torch.rand(1, 3, 10, 14)
    seen = []
    stem.stem3.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        stem(image)
        fine = stem.stem1(image)
    pooled = torch.zeros(1, 4, 5, 7)
    for row in range(5):
        for column in range(7):
            window = fine[:, :, row : row + 2, column : column + 2]
            pooled[:, :, row, column] = window.amax(dim=(2, 3))
    assert seen[0].shape == (1, 8, 5, 7)
    torch.testing.assert_close(seen[0][:, :4], pooled)


@pytest.mark.parametrize(('number', 'in_channels'), [(0, 256), (1, 512)], ids=['first', 'second'])
def test_block__adds_its_input_from_the_second_on(number: int, in_channels: int) -> None:
    block = HGNetv2('pico', out_indices=(2,)).eval().stages[2].blocks[number]
    for parameter in block.aggregation[1].parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, in_channels, 8, 8)
    expected = x if number else torch.zeros(1, 512, 8, 8)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)


def test_backbone__frozen_stages_keep_weights_and_statistics() -> None:
    backbone = HGNetv2('atto', out_indices=(2,), frozen_stages=1).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    trained = trained_names(backbone)
    after = backbone.state_dict()
    changed = {name.rsplit('.bn', 1)[0] for name in after if not after[name].equal(before[name])}

    frozen = ('stem.', 'stages.0.')
    assert trained == {n for n, _ in backbone.named_parameters() if not n.startswith(frozen)}
    assert changed
    assert not any(name.startswith(frozen) for name in changed)


def test_backbone__freeze_norm_freezes_norms_and_nothing_else() -> None:
    backbone = HGNetv2('atto', out_indices=(2,), freeze_norm=True).train()
    before = [norm.running_mean.clone() for norm in norms_of(backbone)]
    trained = trained_names(backbone)
    assert trained == {name for name, _ in backbone.named_parameters() if '.bn.' not in name}
    after = [norm.running_mean for norm in norms_of(backbone)]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_backbone__bfloat16_autocast_is_finite() -> None:
    with torch.autocast('cpu', torch.bfloat16):
        outputs = HGNetv2('atto', out_indices=(2,))(torch.rand(1, 3, 64, 64))
    assert all(output.isfinite().all() for output in outputs)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(arch='b1'), "got arch='b1', expected one of .*'atto'"),
        (dict(arch=dict(stem_channels=(16, 16))), 'does not fit .*stages.*kernel_size'),
        (dict(arch={**ATTO, 'depth': 3}), 'does not fit .*depth'),
        (dict(arch='atto', out_indices=(2, 3)), 'from 0 to 2, the stages of this arch'),
        (dict(arch='b0', out_indices=(2, 1)), r'got out_indices=\[2, 1\], expected rising'),
        (dict(arch='b0', out_indices=()), r'got out_indices=\[\]'),
        (dict(arch='b0', frozen_stages=5), 'got frozen_stages=5, expected -1'),
    ],
    ids=['arch', 'missing', 'unknown', 'too-far', 'falling', 'none', 'frozen'],
)
def test_backbone__wrong_settings_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HGNetv2(**settings)
