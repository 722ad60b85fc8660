"""Backbones and encoders of DEIMv2: parity with the reference, the table of sizes, and the encoders' own promises.

`tests/golden/deim_encoders.json` holds numbers of the reference implementation, for weights and images that
`tests/reference_numbers.py` makes from names: of each map its shape, mean, standard deviation and the first 4 x 4 cells
of its first, middle and last channel; of the names and shapes of the weights a checksum.
"""

import functools
import json
import math
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmext.models.deim.hybrid_encoder import HybridEncoder, position_codes
from mmext.models.deim.lite_encoder import LiteEncoder
from mmext.models.deim.variants import VARIANTS
from tests.models.deim_models import build_backbone, build_encoder, fill_by_name
from tests.reference_numbers import named_array

GOLDEN = json.loads((Path(__file__).parents[1] / 'golden' / 'deim_encoders.json').read_text())
# The transformers take seconds at 640 px; convolutions with the same encoder blocks are tested always.
SIZES = [
    pytest.param(name, marks=pytest.mark.slow if VARIANTS[name].sta_channels else ())
    for name in GOLDEN
]
CONVOLUTIONAL = [name for name, variant in VARIANTS.items() if not variant.sta_channels]
MAP_SIZES = [((16, 24), (8, 12), (4, 6)), ((13, 9), (7, 5), (4, 3)), ((3, 2), (2, 1), (1, 1))]
MAP_IDS = ['even', 'odd', 'tiny']


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def hybrid_encoder(in_channels: tuple[int, ...] = (16, 24, 16), block: str = 'e5') -> HybridEncoder:
    return HybridEncoder(
        in_channels, 16, block=block, csp_channels=6, num_csp_blocks=2, ffn_channels=32, num_heads=4
    )


def lite_encoder() -> LiteEncoder:
    return LiteEncoder([24], 16, block='e4', csp_channels=6, num_csp_blocks=2)


@functools.cache
def on_meta(name: str) -> tuple[nn.Module, nn.Module]:
    """Backbone and encoder of a size, without numbers."""
    with torch.device('meta'):
        return build_backbone(name), build_encoder(name)


def checksum(module: nn.Module) -> int:
    """Of the names and shapes of a state dict, whatever their order."""
    entries = sorted((name, list(t.shape)) for name, t in module.state_dict().items())
    return zlib.crc32('\n'.join(f'{name} {shape}' for name, shape in entries).encode())


def assert_equal_maps(outputs: tuple[Tensor, ...], expected: list[dict]) -> None:
    for output, reference in zip(outputs, expected, strict=True):
        tolerance = 1e-4 * min(reference['std'], 1.0)
        middle = output.shape[1] // 2
        corner = torch.stack([output[0, c, :4, :4] for c in (0, middle, -1)])
        assert list(output.shape) == reference['shape']
        assert float(output.mean()) == pytest.approx(reference['mean'], abs=tolerance)
        assert float(output.std()) == pytest.approx(reference['std'], abs=tolerance)
        assert float((corner - torch.tensor(reference['corner'])).abs().max()) < tolerance


@pytest.mark.parametrize('name', SIZES)
@torch.no_grad()
def test_backbone_and_encoder__maps_equal_the_reference(name: str) -> None:
    backbone = fill_by_name(build_backbone(name), 'backbone.')
    encoder = fill_by_name(build_encoder(name), 'encoder.')
    features = backbone(named_array('image', GOLDEN[name]['input']))
    assert_equal_maps(features, GOLDEN[name]['backbone']['maps'])
    assert_equal_maps(encoder(features), GOLDEN[name]['encoder']['maps'])


@pytest.mark.parametrize('name', GOLDEN)
@pytest.mark.parametrize('part', ['backbone', 'encoder'])
def test_state_dict__names_and_shapes_of_the_reference(name: str, part: str) -> None:
    module = dict(zip(('backbone', 'encoder'), on_meta(name), strict=True))[part]
    reference = GOLDEN[name][part]
    assert len(module.state_dict()) == reference['num_keys']
    assert checksum(module) == reference['keys_crc32']


@pytest.mark.parametrize('name', CONVOLUTIONAL)
def test_state_dict__published_number_of_entries_beside_the_decoder(name: str) -> None:
    variant = VARIANTS[name]
    backbone, encoder = on_meta(name)
    # Every decoder has 27 entries of its own, 28 per layer and 2 more where the layer is gated. In hgx it
    # projects its three inputs (a convolution and a norm each), and frozen norms have no counter.
    decoder = 27 + (30 if variant.gated else 28) * variant.num_decoder_layers
    counters = 0
    if name == 'hgx':
        decoder += 3 * 6
        counters = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    entries = len(backbone.state_dict()) + len(encoder.state_dict()) - counters
    assert entries + decoder == variant.num_keys


LARGE = ('m', 'l', 'x', 'hgm', 'hgl', 'hgx')


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in VARIANTS]
)
def test_backbone_and_encoder__channels_and_sizes_of_the_table(name: str) -> None:
    variant = VARIANTS[name]
    backbone, encoder = on_meta(name)
    with torch.device('meta'):
        features = backbone(torch.empty(1, 3, 128, 192))
        outputs = encoder(features)
    sizes = [(128 // stride, 192 // stride) for stride in variant.strides]
    channels = variant.backbone_channels
    assert backbone.out_channels == channels
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (number, *size) for number, size in zip(channels, sizes, strict=False)
    ]
    assert [tuple(output.shape[1:]) for output in outputs] == [
        (variant.encoder_channels, *size) for size in sizes
    ]


@pytest.mark.parametrize(('height', 'width'), [(4, 4), (3, 5), (5, 2)])
def test_position_codes__equal_a_slow_loop_with_the_published_coordinates(height, width) -> None:
    expected = torch.zeros(height * width, 12)
    for cell in range(height * width):
        for i in range(3):
            frequency = 10000 ** (-i / 3)
            # Divided by the number of rows, not of columns.
            first, second = (cell // height) * frequency, (cell % height) * frequency
            expected[cell, i], expected[cell, 3 + i] = math.sin(first), math.cos(first)
            expected[cell, 6 + i], expected[cell, 9 + i] = math.sin(second), math.cos(second)
    torch.testing.assert_close(position_codes(height, width, 12), expected)


@pytest.mark.parametrize('block', ['e4', 'e5'])
@pytest.mark.parametrize('sizes', MAP_SIZES, ids=MAP_IDS)
def test_hybrid_encoder__keeps_the_sizes_of_its_inputs(sizes, block: str) -> None:
    features = [torch.rand(2, c, *size) for c, size in zip((16, 24, 16), sizes, strict=True)]
    outputs = hybrid_encoder(block=block)(features)
    assert [tuple(output.shape) for output in outputs] == [(2, 16, *size) for size in sizes]


@pytest.mark.parametrize('sizes', MAP_SIZES, ids=MAP_IDS)
def test_lite_encoder__second_map_is_half_the_first_rounded_up(sizes) -> None:
    outputs = lite_encoder()([torch.rand(2, 24, *sizes[0])])
    assert [tuple(output.shape) for output in outputs] == [(2, 16, *size) for size in sizes[:2]]


def test_hybrid_encoder__maps_of_its_own_width_have_no_projection() -> None:
    names = hybrid_encoder((16, 24, 16)).state_dict()
    assert {name.split('.')[1] for name in names if name.startswith('input_proj')} == {'1'}


def test_hybrid_encoder__every_cell_of_the_coarsest_map_reaches_every_cell() -> None:
    features = [torch.rand(1, 16, *size, requires_grad=True) for size in ((32, 32), (16, 16))]
    hybrid_encoder((16, 16)).eval()(features)[0][0, :, 0, 0].sum().backward()
    assert bool((features[1].grad.abs().amax(dim=1) > 0).all())
    assert not bool((features[0].grad.abs().amax(dim=1) > 0).all())


both_encoders = pytest.mark.parametrize(
    ('encoder', 'channels'),
    [(hybrid_encoder, (16, 24, 16)), (lite_encoder, (24,))],
    ids=['hybrid', 'lite'],
)


def even_maps(channels: tuple[int, ...]) -> list[Tensor]:
    return [torch.rand(2, c, *size) for c, size in zip(channels, MAP_SIZES[0], strict=False)]


@both_encoders
def test_encoder__every_parameter_gets_a_gradient(encoder, channels) -> None:
    module = encoder()
    sum(output.square().mean() for output in module(even_maps(channels))).backward()
    without = {n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == set()


@both_encoders
def test_encoder__a_batch_of_two_equals_two_singles(encoder, channels) -> None:
    module, features = encoder().eval(), even_maps(channels)
    together = module(features)
    for i in range(2):
        alone = module([feature[i : i + 1] for feature in features])
        for output, single in zip(together, alone, strict=True):
            torch.testing.assert_close(output[i : i + 1], single, rtol=1e-4, atol=1e-5)


@both_encoders
def test_encoder__bfloat16_autocast_is_finite(encoder, channels) -> None:
    with torch.autocast('cpu', torch.bfloat16):
        outputs = encoder()(even_maps(channels))
    assert all(output.isfinite().all() for output in outputs)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: hybrid_encoder((16,)), r'got in_channels=\[16\], expected two maps or more'),
        (lambda: hybrid_encoder(block='e3'), "HybridEncoder: got block='e3', expected one of"),
        (
            lambda: HybridEncoder(
                (8, 8), 18, block='e4', csp_channels=4, num_csp_blocks=1, ffn_channels=8
            ),
            'got out_channels=18, expected a multiple of 4 and of num_heads=8',
        ),
        (
            lambda: LiteEncoder((8, 8), 16, block='e4', csp_channels=4, num_csp_blocks=1),
            r'LiteEncoder: got in_channels=\[8, 8\], expected one map',
        ),
    ],
    ids=['one-map', 'block', 'width', 'two-maps'],
)
def test_encoder__wrong_settings_are_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
