"""DINOv3STA: names and outputs of the published model, rotary attention, sizes, training modes.

`tests/golden/deim_backbone.*` are from the reference implementation, for weights and an image that
`tests/reference_numbers.py` makes from names: names and shapes of the weights (`*` is each of twelve
blocks), mean and deviation of every map, and the first 4 x 4 pixels of every 8th channel.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.models.backbones.dinov3 import ARCHS, SelfAttention, VisionTransformer
from mmext.models.backbones.dinov3_rotary import RotaryEmbedding
from mmext.models.backbones.dinov3_sta import DINOv3STA
from mmext.registry import MODELS
from tests.reference_numbers import named_array, named_weight

GOLDEN = Path(__file__).parents[1] / 'golden'
PUBLISHED: dict[str, dict[str, Any]] = {
    's': dict(arch='vit_tiny', sta_channels=16, out_channels=192),
    'm': dict(arch='vit_tiny_plus', sta_channels=16, out_channels=256),
    'l': dict(arch='vits', sta_channels=32, out_channels=224),
    'x': dict(arch='vits_plus', sta_channels=64, out_channels=256),
}


def build(size: str, **options: Any) -> DINOv3STA:
    torch.manual_seed(0)
    return MODELS.build(dict(type='mmext.DINOv3STA', **PUBLISHED[size], **options))


def small_arch(name: str):
    """An architecture with two heads only."""
    return ARCHS[name]._replace(embed_dims=128, mlp_channels=192)


def fill(module: torch.nn.Module, prefix: str = '') -> None:
    """Weights from names, so that no bias or scale is at its special initial value."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point() and not name.endswith(('periods', 'bias_mask')):
                value.copy_(named_weight(prefix + name, value.shape))


@pytest.fixture(scope='module')
def golden() -> dict[str, Any]:
    return json.loads((GOLDEN / 'deim_backbone.json').read_text())


@pytest.fixture(scope='module')
def filled() -> DINOv3STA:
    """Size s in eval, for tests that do not change it."""
    backbone = build('s').eval()
    fill(backbone)
    return backbone


@pytest.mark.parametrize('size', ['s', 'l'])
def test_state_dict__names_and_shapes_of_the_reference(size: str, golden: dict[str, Any]) -> None:
    expected = {
        name.replace('*', str(block)): tuple(shape)
        for name, shape in golden[size]['keys'].items()
        for block in range(12)
    }
    with torch.device('meta'):
        own = {f'backbone.{n}': tuple(v.shape) for n, v in build(size).state_dict().items()}
    assert own == expected


@pytest.mark.parametrize('size', ['s', pytest.param('l', marks=pytest.mark.slow)])
@torch.no_grad()
def test_features__equal_the_reference(size: str, golden: dict[str, Any]) -> None:
    backbone = build(size).eval()
    fill(backbone, prefix='backbone.')
    corners = np.load(GOLDEN / 'deim_backbone.npz')
    outputs = backbone(named_array('image', golden[size]['input']))
    for level, (output, expected) in enumerate(zip(outputs, golden[size]['features'], strict=True)):
        error = (output[0, ::8, :4, :4] - torch.from_numpy(corners[f'{size}_{level}'])).abs().max()
        assert list(output.shape) == expected['shape']
        assert float(output.mean()) == pytest.approx(expected['mean'], abs=1e-5)
        assert float(output.std()) == pytest.approx(expected['std'], rel=1e-5)
        assert float(error) < 1e-5 * expected['std']


@pytest.mark.parametrize('size', PUBLISHED)
def test_parameters__count_by_hand(size: str) -> None:
    published = PUBLISHED[size]
    # width, hidden width, matrices of the feed-forward network
    e, m, n = {
        's': (192, 768, 2),
        'm': (256, 1024, 2),
        'l': (384, 1536, 2),
        'x': (384, 1536, 3),
    }[size]
    p, c = published['sta_channels'], published['out_channels']
    attention = 3 * e * e + 3 * e + e * e + e
    feed_forward = n * e * m + (n - 1) * m + e
    block = attention + feed_forward + 2 * 2 * e
    transformer = 3 * 16 * 16 * e + e + e + 12 * block
    if size in 'lx':  # layer scales, 4 storage tokens, mask token, final norm
        transformer += 12 * 2 * e + 4 * e + e + 2 * e
    adapter = 9 * (3 * p + 2 * p * p + 8 * p * p + 16 * p * p) + 2 * (p + 2 * p + 4 * p + 4 * p)
    fusion = c * (3 * e + 2 * p + 4 * p + 4 * p) + 3 * 2 * c
    with torch.device('meta'):
        num_params = sum(weight.numel() for weight in build(size).parameters())
    assert num_params == transformer + adapter + fusion


def slow_attention(attention: SelfAttention, x: Tensor, grid: tuple[int, int], prefix: int):
    """Attention of one image, token by token in double precision; a rotation is one of complex numbers."""
    height, width = grid
    weight, bias = attention.qkv.weight.double(), attention.qkv.bias.double().clone()
    channels = x.shape[1]
    if hasattr(attention.qkv, 'bias_mask'):
        bias[channels : 2 * channels] = 0
    query, key, value = (x.double() @ weight.T + bias).chunk(3, dim=1)

    def rotated(vector: Tensor, token: int) -> Tensor:
        if token < prefix:
            return vector
        row, column = divmod(token - prefix, width)
        place = (2 * (row + 0.5) / height - 1, 2 * (column + 0.5) / width - 1)
        result = vector.clone()
        for k in range(32):
            angle = 2 * math.pi * place[k // 16] / 100 ** (k % 16 / 16)
            turned = complex(vector[k], vector[k + 32]) * complex(math.cos(angle), math.sin(angle))
            result[k], result[k + 32] = turned.real, turned.imag
        return result

    attended = torch.zeros_like(value)
    for start in range(0, channels, 64):
        head = slice(start, start + 64)
        queries = torch.stack([rotated(q, t) for t, q in enumerate(query[:, head])])
        keys = torch.stack([rotated(k, t) for t, k in enumerate(key[:, head])])
        attended[:, head] = (queries @ keys.T / 8).softmax(dim=1) @ value[:, head]
    return attended @ attention.proj.weight.double().T + attention.proj.bias.double()


@pytest.mark.parametrize(('name', 'prefix'), [('vit_tiny', 1), ('vits', 5)])
@torch.no_grad()
def test_attention__equals_a_slow_loop(name: str, prefix: int) -> None:
    grid = (2, 3)
    attention = SelfAttention(small_arch(name))
    fill(attention)
    rope = RotaryEmbedding(prefix, None).eval()
    x = named_array('tokens', (1, prefix + 6, 128))
    output = attention(x, rope(*grid, num_blocks=1)[0])
    expected = slow_attention(attention, x[0], grid, prefix)
    assert torch.allclose(output[0].double(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_attention__bias_of_the_keys_counts_in_the_tiny_ones_only() -> None:
    x = named_array('tokens', (1, 11, 128))
    changes = []
    for name in ('vit_tiny', 'vits'):
        attention = SelfAttention(small_arch(name))
        fill(attention)
        tables = RotaryEmbedding(5, None)(2, 3, num_blocks=1)[0]
        before = attention(x, tables)
        attention.qkv.bias[128:256] += named_array('shift', (128,))
        changes.append(float((attention(x, tables) - before).abs().max()))
    assert changes[0] > 1e-3
    assert changes[1] == 0


@pytest.mark.parametrize('size', [(32, 32), (16, 80)], ids=str)
@torch.no_grad()
def test_fusion__equals_resize_concatenate_convolve(
    filled: DINOv3STA, size: tuple[int, int]
) -> None:
    image = named_array('image', (2, 3, *size))
    outputs = filled(image)
    semantics, details = filled.vit(image), filled.sta(image)
    for i, stride in enumerate((8, 16, 32)):
        height, width = (math.ceil(side / stride) for side in size)
        resized = F.interpolate(semantics[i], (height, width), mode='bilinear', align_corners=False)
        expected = filled.norms[i](filled.convs[i](torch.cat([resized, details[i]], dim=1)))
        assert outputs[i].shape == (2, 192, height, width)
        assert torch.allclose(outputs[i], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_features__of_a_batch_equal_those_of_single_images(filled: DINOv3STA) -> None:
    images = named_array('images', (2, 3, 64, 96))
    singles = [filled(image[None]) for image in images]
    for level, output in enumerate(filled(images)):
        expected = torch.cat([outputs[level] for outputs in singles])
        assert torch.allclose(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [(40, 64), (64, 65)], ids=str)
def test_features__size_that_is_no_multiple_of_16(filled: DINOv3STA, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f'{size[0]} x {size[1]}.*multiples of 16.*pad_size_div'):
        filled(torch.zeros(1, 3, *size))


@pytest.mark.parametrize('size', ['s', pytest.param('x', marks=pytest.mark.slow)])
@torch.no_grad()
def test_features__under_autocast(size: str) -> None:
    backbone = build(size).eval()
    image = named_array('image', (1, 3, 64, 96))
    exact = backbone(image)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rounded = backbone(image)
    for low, high in zip(rounded, exact, strict=True):
        assert low.isfinite().all()
        assert float((low - high).abs().mean()) < 0.02 * float(high.std())


@pytest.mark.parametrize('size', ['s', pytest.param('l', marks=pytest.mark.slow)])
def test_gradients__reach_every_parameter(size: str) -> None:
    backbone = build(size).train()
    sum(output.square().sum() for output in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []
    assert [n for n, p in backbone.named_parameters() if not p.grad.isfinite().all()] == []


def test_rescale__every_block_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training block i sees positions times the i-th number drawn, evenly in its logarithm."""
    logs = torch.linspace(-0.6, 0.5, 12)
    asked = []

    def draw(tensor: Tensor, low: float, high: float) -> Tensor:
        asked.append((tuple(tensor.shape), low, high))
        return tensor.copy_(logs)

    vit = VisionTransformer(small_arch('vits')).train()
    monkeypatch.setattr(Tensor, 'uniform_', draw)
    seen = []
    for block in vit.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    vit(torch.zeros(1, 3, 32, 16))

    assert asked == [((12,), pytest.approx(-math.log(2)), pytest.approx(math.log(2)))]
    for log, tables in zip(logs, seen, strict=True):
        # Two patches, one above the other: y = -1/2 and 1/2, x = 0. The first period is 1.
        angles = torch.tensor([0.0] * 5 + [-math.pi, math.pi]) * log.exp()
        assert torch.allclose(tables.cos[:, 0, 0, 0], angles.cos(), atol=1e-6)
        assert torch.allclose(tables.sin[:, 0, 0, 32], angles.sin(), atol=1e-6)
        assert torch.equal(tables.cos[:, 0, 0, 16], torch.ones(7))


@pytest.mark.parametrize(
    ('name', 'training', 'differs'),
    [('vits', True, True), ('vits', False, False), ('vit_tiny', True, False)],
)
@torch.no_grad()
def test_rescale__only_in_training_and_not_in_the_tiny_ones(
    name: str, training: bool, differs: bool
) -> None:
    vit = VisionTransformer(small_arch(name)).train(training)
    fill(vit)
    image = named_array('image', (1, 3, 48, 64))
    first, second = vit(image)[-1], vit(image)[-1]
    assert torch.equal(first, second) is not differs


@pytest.mark.parametrize('name', ['vit_tiny', 'vits', 'vits_plus'])
def test_with_cp__same_gradients(name: str) -> None:
    gradients = []
    for with_cp in (False, True):
        vit = VisionTransformer(small_arch(name), with_cp=with_cp).train()
        fill(vit)
        torch.manual_seed(0)
        sum(
            output.square().mean() for output in vit(named_array('image', (2, 3, 32, 48)))
        ).backward()
        gradients.append([p.grad for p in vit.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.allclose(plain, recomputed, rtol=1e-5, atol=1e-7)


def test_frozen__transformer_stays_as_it_is() -> None:
    backbone = build('l', frozen=True).train()
    before = {n: v.clone() for n, v in backbone.vit.state_dict().items()}
    outputs = [backbone(named_array('image', (2, 3, 64, 64))) for _ in range(2)]
    outputs[0][2].square().sum().backward()
    torch.optim.SGD(backbone.parameters(), lr=1.0, weight_decay=0.1).step()

    assert not any(module.training for module in backbone.vit.modules())
    assert backbone.sta.training
    assert all(torch.equal(v, before[n]) for n, v in backbone.vit.state_dict().items())
    assert all(p.grad is not None for p in backbone.sta.parameters())
    assert torch.equal(outputs[0][0], outputs[1][0])  # no rescale


def test_tables__made_in_inference_mode_serve_a_pass_with_gradients() -> None:
    vit = VisionTransformer(small_arch('vits')).eval()
    image = named_array('image', (1, 3, 32, 48))
    with torch.inference_mode():
        vit(image)
    vit(image)[-1].sum().backward()
    assert vit.cls_token.grad is not None


@torch.no_grad()
def test_tables__follow_loaded_periods_and_new_sizes() -> None:
    vit = VisionTransformer(small_arch('vit_tiny')).eval()
    fill(vit)
    image = named_array('image', (1, 3, 32, 48))
    before = vit(image)[-1]
    turned = vit(image.mT)[-1]
    vit.load_state_dict({**vit.state_dict(), 'rope_embed.periods': torch.full((16,), 1e9)})
    # With endless periods no token has a place, so that the order of the patches does not matter.
    without_place = vit(image)[-1]
    swapped = vit(image.flip(3).unflatten(3, (3, 16)).flip(4).flatten(3))[-1]

    assert turned.shape == (1, 128, 3, 2)
    assert not torch.allclose(before, without_place, atol=1e-2)
    assert torch.allclose(swapped.flip(3), without_place, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (dict(arch='vitb'), r"unknown arch 'vitb'.*vit_tiny.*vits_plus"),
        (dict(sta_channels=0), 'sta_channels=0'),
        (dict(out_channels=0), 'out_channels=0'),
    ],
    ids=['arch', 'sta_channels', 'out_channels'],
)
def test_arguments__that_cannot_be(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DINOv3STA(**{**PUBLISHED['s'], **option})
