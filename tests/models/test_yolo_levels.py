"""P2 at stride 4 and P6 at stride 64: backbone and neck with three to five levels."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.backbones.csp import CSPBackbone
from mmext.models.common.layers import C3k2
from mmext.models.yolo.neck import CSPPAN
from mmext.models.yolo.proto import Proto
from mmext.models.yolo.variants import SCALES, scale_channels
from mmext.registry import MODELS
from tests.models.yolo_models import head_config

STRIDES = {
    'p2': (4, 8, 16, 32),
    'p6': (8, 16, 32, 64),
    'p2-p6': (4, 8, 16, 32, 64),
}
# Stage of the backbone, its output in v8 and v11 and the neck's output, at unit width.
LEVELS = {
    4: (1, 128, 256, 128),
    8: (2, 256, 512, 256),
    16: (3, 512, 512, 512),
    32: (4, 1024, 1024, 1024),
    64: (5, 1024, 1024, 1024),
}
VERSIONS = ('v8', 'v11')


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build_parts(
    version: str, strides: Sequence[int], *, size: str = 'n', num_classes: int = 3
) -> dict[str, nn.Module]:
    """Backbone, neck and head of a size at the given strides."""
    scale = SCALES[version][size]
    stages, *columns = zip(*(LEVELS[stride] for stride in strides), strict=True)
    v8, v11, neck = ([scale_channels(c, *scale[1:]) for c in column] for column in columns)
    configs = dict(
        backbone=dict(
            type='mmext.CSPBackbone',
            version=version,
            num_stages=max(4, *stages),
            out_indices=stages,
            **scale._asdict(),
        ),
        neck=dict(
            type='mmext.CSPPAN',
            version=version,
            in_channels=v8 if version == 'v8' else v11,
            out_channels=neck,
            strides=strides,
            deepen_factor=scale.deepen_factor,
        ),
        bbox_head=head_config(num_classes, version=version, in_channels=neck, strides=strides),
    )
    return {name: MODELS.build(config) for name, config in configs.items()}


@pytest.fixture(scope='module', params=STRIDES.values(), ids=STRIDES)
def strides(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


@pytest.fixture(scope='module', params=VERSIONS)
def parts(request: pytest.FixtureRequest, strides: tuple[int, ...]) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return build_parts(request.param, strides)


def test_backbone_and_neck__channels_and_sizes_of_all_levels(
    parts: dict[str, nn.Module], strides: tuple[int, ...]
) -> None:
    features = parts['backbone'](torch.rand(1, 3, 128, 192))
    outputs = parts['neck'](features)
    sizes = [(128 // stride, 192 // stride) for stride in strides]
    for maps, part in ((features, parts['backbone']), (outputs, parts['neck'])):
        assert [tuple(level.shape[2:]) for level in maps] == sizes
        assert tuple(level.shape[1] for level in maps) == part.out_channels


def test_backbone_and_neck__every_parameter_gets_a_gradient(
    parts: dict[str, nn.Module],
) -> None:
    outputs = parts['neck'](parts['backbone'](torch.rand(2, 3, 128, 64)))
    sum(output.square().mean() for output in outputs).backward()
    for part in (parts['backbone'], parts['neck']):
        without = [n for n, p in part.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []


def test_p2__number_of_parameters_that_the_reference_logs() -> None:
    """YOLOv8n-p2 without masks and with two classes: 2,926,824, 16 of them frozen."""
    with torch.device('meta'):
        parts = build_parts('v8', STRIDES['p2'], num_classes=2)
    head = parts.pop('bbox_head')
    detection = [*parts.values(), head.reg_branches, head.cls_branches]
    assert sum(p.numel() for part in detection for p in part.parameters()) + 16 == 2_926_824


def test_p6__keeps_the_published_stages_and_adds_one() -> None:
    with torch.device('meta'):
        published = CSPBackbone(widen_factor=0.25, deepen_factor=0.33).state_dict()
        longer = CSPBackbone(widen_factor=0.25, deepen_factor=0.33, num_stages=5).state_dict()
    shapes = {name: value.shape for name, value in longer.items()}
    # The pooling of the last stage, third in its sequence, moves on to the new last stage.
    kept = {n: v.shape for n, v in published.items() if not n.startswith('stage4.2.')}
    moved = {
        n.replace('stage4', 'stage5'): v.shape
        for n, v in published.items()
        if n.startswith('stage4.2.')
    }
    assert kept.items() <= shapes.items()
    assert moved.items() <= shapes.items()
    added = shapes.keys() - kept.keys()
    assert added and all(name.startswith('stage5.') for name in added)


def test_neck__five_levels_are_fused_down_and_up_again() -> None:
    channels = (8, 16, 24, 32, 40)
    neck = CSPPAN(
        in_channels=channels,
        out_channels=(4, 12, 20, 28, 36),
        strides=STRIDES['p2-p6'],
        deepen_factor=0.33,
    ).eval()
    # 48 pixels of width: odd maps at strides 16 and 64.
    p2, p3, p4, p5, p6 = (
        torch.rand(1, c, 64 // s, -(-48 // s))
        for c, s in zip(channels, STRIDES['p2-p6'], strict=True)
    )

    def up(small: Tensor, large: Tensor) -> Tensor:
        return torch.cat([functional.interpolate(small, large.shape[2:]), large], dim=1)

    top_down, down, bottom_up = neck.top_down_blocks, neck.downsamples, neck.bottom_up_blocks
    with torch.no_grad():
        fused5 = top_down[0](up(p6, p5))
        fused4 = top_down[1](up(fused5, p4))
        fused3 = top_down[2](up(fused4, p3))
        out2 = top_down[3](up(fused3, p2))
        out3 = bottom_up[0](torch.cat([down[0](out2), fused3], 1))
        out4 = bottom_up[1](torch.cat([down[1](out3), fused4], 1))
        out5 = bottom_up[2](torch.cat([down[2](out4), fused5], 1))
        out6 = bottom_up[3](torch.cat([down[3](out5), p6], 1))
        outputs = neck([p2, p3, p4, p5, p6])
    for output, expected in zip(outputs, (out2, out3, out4, out5, out6), strict=True):
        assert torch.equal(output, expected)


@pytest.mark.parametrize(
    ('size', 'expected'),
    [('n', ['Bottleneck'] * 5 + ['C3k']), ('s', ['Bottleneck'] * 5 + ['C3k']), ('m', ['C3k'] * 6)],
    ids=['n', 's', 'm'],
)
def test_neck__p2_does_not_change_the_inner_blocks_of_v11(size: str, expected: list[str]) -> None:
    with torch.device('meta'):
        neck = build_parts('v11', STRIDES['p2'], size=size)['neck']
    chains = [module for module in neck.modules() if isinstance(module, C3k2)]
    assert [type(chain.m[0]).__name__ for chain in chains] == expected


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(strides=(8, 16)), r'strides=\(8, 16\), expected one of \(\(8, 16, 32\)'),
        (dict(strides=(2, 4, 8, 16)), r'strides=\(2, 4, 8, 16\)'),
        (dict(strides=(4, 8, 16, 32)), r'in_channels must have four entries.*\(64, 128, 256\)'),
    ],
    ids=['two', 'too-fine', 'channels-of-three'],
)
def test_neck__wrong_strides(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CSPPAN(**settings)


@pytest.mark.parametrize('num_stages', [3, 6])
def test_backbone__wrong_number_of_stages(num_stages: int) -> None:
    with pytest.raises(ValueError, match=rf'num_stages={num_stages}, expected one of \(4, 5\)'):
        CSPBackbone(num_stages=num_stages)


def test_backbone__p6_without_its_stage() -> None:
    with pytest.raises(ValueError, match='at most num_stages=4'):
        CSPBackbone(out_indices=(2, 3, 4, 5))


# ------------------------------------------------------------------------------------------ prototypes


@pytest.mark.parametrize(
    ('settings', 'stride'),
    [(dict(), 2), (dict(upsample=1), 4), (dict(level=1), 4), (dict(level=1, upsample=4), 2)],
    ids=['default', 'p2-as-it-is', 'published-branch-on-p3', 'p3-four-times'],
)
def test_proto__stride_by_level_and_upsampling(settings: dict, stride: int) -> None:
    layer = dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='SiLU'))
    proto = Proto([8, 12, 16, 24], 5, hidden_channels=6, **settings, **layer)
    features = [
        torch.rand(2, c, 64 // s, 96 // s)
        for c, s in zip((8, 12, 16, 24), STRIDES['p2'], strict=True)
    ]
    assert proto(features).shape == (2, 5, 64 // stride, 96 // stride)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [(dict(level=3), r'level=3, expected 0 \(the finest\) to 2'), (dict(upsample=0), 'upsample=0')],
    ids=['level', 'upsample'],
)
def test_proto__wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Proto([8, 12, 16], 5, hidden_channels=6, **settings, norm_cfg={}, act_cfg={})
