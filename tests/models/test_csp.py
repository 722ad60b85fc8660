"""CSP backbone and path-aggregation neck of YOLO v8 and v11, and their blocks."""

import functools
import math

import pytest
import torch
from torch import nn

from mmext.models.backbones.csp import CSPBackbone
from mmext.models.common.layers import C3k2
from mmext.models.yolo.neck import CSPPAN
from mmext.models.yolo.variants import Variant, part_configs
from mmext.registry import MODELS

# Published numbers with 80 classes and 32 prototypes; 16 of them are the frozen weights of the
# distance integral.
PUBLISHED_PARAMETERS = {
    ('v8', 'n'): 3_409_968,
    ('v8', 's'): 11_821_056,
    ('v8', 'm'): 27_285_968,
    ('v8', 'l'): 45_997_728,
    ('v8', 'x'): 71_827_888,
    ('v11', 'n'): 2_876_848,
    ('v11', 's'): 10_113_248,
    ('v11', 'm'): 22_420_896,
    ('v11', 'l'): 27_678_368,
    ('v11', 'x'): 62_142_656,
}
# P3, P4, P5 of the backbone and of the neck.
PUBLISHED_CHANNELS = {
    ('v8', 'n'): ((64, 128, 256), (64, 128, 256)),
    ('v8', 's'): ((128, 256, 512), (128, 256, 512)),
    ('v8', 'm'): ((192, 384, 576), (192, 384, 576)),
    ('v8', 'l'): ((256, 512, 512), (256, 512, 512)),
    ('v8', 'x'): ((320, 640, 640), (320, 640, 640)),
    ('v11', 'n'): ((128, 128, 256), (64, 128, 256)),
    ('v11', 's'): ((256, 256, 512), (128, 256, 512)),
    ('v11', 'm'): ((512, 512, 512), (256, 512, 512)),
    ('v11', 'l'): ((512, 512, 512), (256, 512, 512)),
    ('v11', 'x'): ((768, 768, 768), (384, 768, 768)),
}
MODEL_IDS = [''.join(key) for key in PUBLISHED_PARAMETERS]
VERSIONS = ('v8', 'v11')


def build_parts(version: str, size: str, num_classes: int = 80) -> dict[str, nn.Module]:
    configs = part_configs(Variant(version, size, num_classes, num_prototypes=32))
    return {name: MODELS.build(config) for name, config in configs.items()}


@functools.cache
def parts_on_meta(version: str, size: str) -> dict[str, nn.Module]:
    """Without weights, for tests that change nothing."""
    with torch.device('meta'):
        return build_parts(version, size)


def nano_backbone(version: str = 'v8', **settings) -> CSPBackbone:
    factors = dict(deepen_factor=0.33 if version == 'v8' else 0.5, widen_factor=0.25)
    return CSPBackbone(version, **factors, **settings)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize('key', PUBLISHED_PARAMETERS, ids=MODEL_IDS)
def test_detector__published_number_of_parameters(key: tuple[str, str]) -> None:
    parts = parts_on_meta(*key)
    num_parameters = sum(p.numel() for part in parts.values() for p in part.parameters())
    assert num_parameters + 16 == PUBLISHED_PARAMETERS[key]


# The smallest and one with wider ratios: the others share their rules.
@pytest.mark.parametrize(
    'key',
    [k if k[1] in 'nm' else pytest.param(k, marks=pytest.mark.slow) for k in PUBLISHED_CHANNELS],
    ids=MODEL_IDS,
)
def test_backbone_and_neck__published_channels_at_strides_8_16_32(key: tuple[str, str]) -> None:
    parts = parts_on_meta(*key)
    features = parts['backbone'](torch.empty(1, 3, 64, 96, device='meta'))
    outputs = parts['neck'](features)
    sizes = ((8, 12), (4, 6), (2, 3))
    for maps, channels in zip((features, outputs), PUBLISHED_CHANNELS[key], strict=True):
        assert [tuple(m.shape[1:]) for m in maps] == [
            (c, *size) for c, size in zip(channels, sizes, strict=True)
        ]
    assert parts['backbone'].out_channels == PUBLISHED_CHANNELS[key][0]
    assert parts['neck'].out_channels == PUBLISHED_CHANNELS[key][1]


@pytest.mark.parametrize('version', VERSIONS)
def test_backbone_and_neck__norms_have_the_published_settings(version: str) -> None:
    parts = parts_on_meta(version, 'n')
    norms = [m for part in parts.values() for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


@pytest.mark.parametrize('version', VERSIONS)
def test_backbone_and_neck__every_parameter_gets_a_gradient(version: str) -> None:
    parts = build_parts(version, 'n')
    outputs = parts['neck'](parts['backbone'](torch.rand(2, 3, 64, 64)))
    sum(output.square().mean() for output in outputs).backward()
    for part in (parts['backbone'], parts['neck']):
        without = [
            name for name, p in part.named_parameters() if p.grad is None or not p.grad.any()
        ]
        assert without == []


@pytest.mark.parametrize('version', VERSIONS)
def test_backbone_and_neck__channels_last_gives_the_same_and_stays_channels_last(
    version: str,
) -> None:
    parts = build_parts(version, 'n')
    chain = nn.Sequential(parts['backbone'], parts['neck']).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = chain(images)
        chain.to(memory_format=torch.channels_last)
        outputs = chain(images.contiguous(memory_format=torch.channels_last))
    for output, reference in zip(outputs, expected, strict=True):
        assert output.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('version', VERSIONS)
def test_backbone_and_neck__odd_image_size(version: str) -> None:
    parts = build_parts(version, 'n')
    outputs = parts['neck'](parts['backbone'](torch.rand(2, 3, 45, 70)))
    assert [tuple(output.shape[2:]) for output in outputs] == [(6, 9), (3, 5), (2, 3)]


@pytest.mark.parametrize('version', VERSIONS)
def test_backbone_and_neck__bfloat16_autocast_is_finite(version: str) -> None:
    parts = build_parts(version, 'n')
    with torch.autocast('cpu', torch.bfloat16):
        outputs = parts['neck'](parts['backbone'](torch.rand(1, 3, 64, 64)))
    assert all(output.isfinite().all() for output in outputs)


def test_backbone__out_indices_choose_the_stages() -> None:
    backbone = nano_backbone(out_indices=(0, 3))
    shapes = [tuple(output.shape) for output in backbone(torch.rand(1, 3, 64, 64))]
    assert shapes == [(1, 16, 32, 32), (1, 128, 4, 4)]
    assert backbone.out_channels == (16, 128)


def test_backbone__four_input_channels() -> None:
    assert nano_backbone(in_channels=4)(torch.rand(2, 4, 32, 32))[0].shape == (2, 64, 4, 4)


def test_backbone__frozen_stages_keep_weights_and_statistics() -> None:
    backbone = nano_backbone(frozen_stages=2).train()
    frozen = nn.ModuleList([backbone.stem, backbone.stage1, backbone.stage2])
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    sum(output.sum() for output in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is None for p in frozen.parameters())
    assert all(p.grad is not None for p in backbone.stage3.parameters())
    for name, value in frozen.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert backbone.stage3[0].bn.num_batches_tracked == 1


def test_backbone__norm_eval_keeps_statistics_and_trains_weights() -> None:
    backbone = nano_backbone(norm_eval=True).train()
    sum(output.sum() for output in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert backbone.training
    assert backbone.stem.bn.num_batches_tracked == 0
    assert backbone.stem.conv.weight.grad is not None


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(version='v9'), "unknown version 'v9'"),
        (dict(out_indices=(2, 5)), r'out_indices .* got \[2, 5\]'),
        (dict(out_indices=(4, 2)), r'out_indices .* got \[4, 2\]'),
        (dict(out_indices=()), r'out_indices .* got \[\]'),
        (dict(frozen_stages=5), 'frozen_stages .* got 5'),
    ],
    ids=['version', 'index-too-large', 'indices-falling', 'no-index', 'frozen'],
)
def test_backbone__wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nano_backbone(**settings)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(version='v9'), "unknown version 'v9'"),
        (dict(in_channels=(64, 128)), r'in_channels must have three entries.*\(64, 128\)'),
        (dict(out_channels=(64,)), r'out_channels must have three entries.*\(64,\)'),
        (dict(in_channels=5), 'in_channels must have three entries.* got 5'),
    ],
    ids=['version', 'in-channels', 'out-channels', 'no sequence'],
)
def test_neck__wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CSPPAN(**settings)


@pytest.mark.parametrize('version', VERSIONS)
def test_init_weights__convolutions_have_torch_s_default_spread(version: str) -> None:
    """Uniform in +-1 / sqrt(fan-in), after mmengine's call too, from which training starts."""
    parts = build_parts(version, 'n')
    for part in (parts['backbone'], parts['neck']):
        part.init_weights()
        for name, module in part.named_modules():
            if isinstance(module, nn.Conv2d):
                bound = 1 / math.sqrt(module.weight[0].numel())
                largest = module.weight.detach().abs().max()
                assert 0.9 * bound < largest <= bound, name


@pytest.mark.parametrize(
    ('size', 'expected'),
    [
        (
            'n',
            [
                'Bottleneck',
                'Bottleneck',
                'C3k',
                'C3k',
                'Bottleneck',
                'Bottleneck',
                'Bottleneck',
                'C3k',
            ],
        ),
        ('m', ['C3k'] * 8),
    ],
)
def test_v11__c3k_in_late_blocks_of_small_and_all_blocks_of_large_sizes(
    size: str, expected: list[str]
) -> None:
    parts = parts_on_meta('v11', size)
    chains = [
        m for part in ('backbone', 'neck') for m in parts[part].modules() if isinstance(m, C3k2)
    ]
    assert [type(chain.m[0]).__name__ for chain in chains] == expected
