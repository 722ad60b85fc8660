"""`MultiScaleProto`: alignment and fusion of the levels, its cost."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from mmext.models.yolo.multi_scale_proto import MultiScaleProto
from mmext.registry import MODELS
from tests.models.yolo_models import CHANNELS, features

FUSIONS = ('sum', 'concat')


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(**settings: object) -> MultiScaleProto:
    config = dict(
        type='mmext.MultiScaleProto',
        in_channels=CHANNELS,
        num_prototypes=6,
        common_channels=8,
        hidden_channels=12,
        hr_channels=10,
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='SiLU'),
    )
    return MODELS.build(config | settings)


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('size', [(64, 96), (32, 32), (224, 32)], ids=str)
def test_forward__half_the_stride_of_the_finest_level(fusion: str, size: tuple[int, int]) -> None:
    proto, x = build(fusion=fusion), features(*size)
    assert proto(x).shape == (2, 6, size[0] // 4, size[1] // 4)
    assert proto.embed(x).shape == (2, proto.embed_channels, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize('strides', [(8, 16), (4, 8, 16, 32)], ids=str)
def test_forward__any_number_of_levels(strides: tuple[int, ...]) -> None:
    channels = [4 + i for i in range(len(strides))]
    x = [torch.randn(1, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]
    prototypes = build(in_channels=channels)(x)
    assert prototypes.shape == (1, 6, 2 * 64 // strides[0], 2 * 96 // strides[0])


def fuse_at_full_size(proto: MultiScaleProto, x: list[Tensor], fusion: str) -> Tensor:
    """Resize the features themselves, then project: the other order, on large maps."""
    size = x[0].shape[-2:]
    maps = [
        lateral(functional.interpolate(level, size, mode='bilinear', align_corners=False))
        for lateral, level in zip(proto.laterals, x, strict=True)
    ]
    return maps[0] + maps[1] + maps[2] if fusion == 'sum' else torch.cat(maps, dim=1)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_forward__fuses_aligned_levels(fusion: str) -> None:
    proto, x = build(fusion=fusion), features(64, 96)
    proto(x)  # batch norms with statistics other than 0 and 1
    proto.eval()
    fused = fuse_at_full_size(proto, x, fusion)
    expected = proto.cv3(proto.cv2(proto.upsample(proto.cv1(fused))))
    torch.testing.assert_close(proto(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_backward__reaches_every_level_and_parameter(fusion: str) -> None:
    proto = build(fusion=fusion)
    x = [level.requires_grad_() for level in features(64, 96)]
    proto(x).square().sum().backward()
    assert all(level.grad.abs().sum() > 0 for level in x)
    assert [name for name, p in proto.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ('fusion', 'hr_channels', 'expected'),
    [('sum', 256, 27.1), ('concat', 256, 42.2), ('sum', 512, 76.2), ('concat', 512, 91.3)],
)
def test_cost__multiply_adds_of_the_docstring(
    fusion: str, hr_channels: int, expected: float
) -> None:
    channels = (256, 512, 512)
    proto = build(
        in_channels=channels,
        num_prototypes=64,
        common_channels=256,
        hidden_channels=512,
        hr_channels=hr_channels,
        fusion=fusion,
    ).to('meta')
    x = [level.to('meta') for level in features(640, 640, batch=1, channels=channels)]
    with FlopCounterMode(display=False) as counter:
        proto(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(expected, abs=0.06)
    table = [[cell.strip() for cell in line.split('|')] for line in type(proto).__doc__.split('\n')]
    column = 3 if fusion == 'sum' else 4
    written = [row[column] for row in table if f'256, 512, {hr_channels}' in row]
    assert written == [str(expected)]


def test_proto__unknown_fusion() -> None:
    with pytest.raises(ValueError, match="'mean'.*'concat', 'sum'"):
        build(fusion='mean')
