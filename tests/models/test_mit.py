"""The Mix Transformer against those of mmseg and transformers, its memory, its settings and its mistakes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.models.backbones import MixVisionTransformer as TheirEncoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import SegformerConfig, SegformerModel

from mmext.models.backbones import MixVisionTransformer
from mmext.models.common.mit_names import Naming, give_encoder, take_encoder
from mmext.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'segformer'
SMALL: dict[str, Any] = dict(embed_dims=8, num_layers=(1, 2, 1, 1), num_heads=(1, 2, 5, 8))
LAYERS = {
    'b0': (2, 2, 2, 2),
    'b1': (2, 2, 2, 2),
    'b2': (3, 4, 6, 3),
    'b3': (3, 4, 18, 3),
    'b4': (3, 8, 27, 3),
    'b5': (3, 6, 40, 3),
}
# In millions, of the encoder alone: those of mmseg's.
PARAMETERS = {'b0': 3.32, 'b1': 13.15, 'b2': 24.20, 'b3': 44.07, 'b4': 60.84, 'b5': 81.44}


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def fill(module: nn.Module) -> None:
    """Weights of the usual size, norms and biases that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        scale = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        offset = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
        parameter.data.normal_(0, scale, generator=generator).add_(offset)


@pytest.fixture(scope='module')
def encoder() -> MixVisionTransformer:
    encoder = MixVisionTransformer(**SMALL)
    fill(encoder)
    return encoder.eval()


def state_of(encoder: nn.Module, source: str, prefix: str = '') -> dict[str, Tensor]:
    return give_encoder(encoder.state_dict(), Naming(source, prefix))


@pytest.mark.parametrize(
    'size',
    [
        size if size in ('b0', 'b2') else pytest.param(size, marks=pytest.mark.slow)
        for size in LAYERS
    ],
)
def test_parameters__as_published(size: str) -> None:
    with torch.device('meta'):
        encoder = MixVisionTransformer(
            embed_dims=32 if size == 'b0' else 64, num_layers=LAYERS[size]
        )
    number = sum(parameter.numel() for parameter in encoder.parameters())
    assert round(number / 1e6, 2) == PARAMETERS[size]


@pytest.mark.parametrize(
    ('size', 'qkv_bias'), [((64, 64), True), ((61, 99), False)], ids=['even', 'odd']
)
def test_forward__equals_mmseg(size: tuple[int, int], qkv_bias: bool) -> None:
    theirs = TheirEncoder(**SMALL, qkv_bias=qkv_bias).eval()
    fill(theirs)
    ours = MixVisionTransformer(**SMALL, qkv_bias=qkv_bias).eval()
    ours.load_state_dict(theirs.state_dict())
    x = images(2, 3, *size)
    with torch.no_grad():
        for found, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert found.is_contiguous()


def test_backward__equals_mmseg(encoder: MixVisionTransformer) -> None:
    theirs = TheirEncoder(**SMALL)
    theirs.load_state_dict(encoder.state_dict())
    ours = MixVisionTransformer(**SMALL, with_cp=True)
    ours.load_state_dict(encoder.state_dict())
    for network in (ours, theirs):
        sum(level.square().mean() for level in network(images(2, 3, 64, 64))).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6)


def test_forward__equals_transformers(encoder: MixVisionTransformer) -> None:
    config = SegformerConfig(
        depths=SMALL['num_layers'],
        hidden_sizes=[8, 16, 40, 64],
        num_attention_heads=SMALL['num_heads'],
        attn_implementation='eager',
    )
    theirs = SegformerModel(config).eval()
    theirs.load_state_dict(state_of(encoder, 'hf-module'))
    ours = MixVisionTransformer(**SMALL, patch_eps=1e-5, block_eps=1e-5, stage_eps=1e-5).eval()
    ours.load_state_dict(encoder.state_dict())
    x = images(1, 3, 61, 99)
    with torch.no_grad():
        expected = theirs(x, output_hidden_states=True).hidden_states
        for found, level in zip(ours(x), expected, strict=True):
            torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-4)


def test_forward__one_image_as_in_a_batch(encoder: MixVisionTransformer) -> None:
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        for alone, both in zip(encoder(x[1:]), encoder(x), strict=True):
            torch.testing.assert_close(alone, both[1:], rtol=1e-5, atol=1e-5)


class LargestSquare(TorchDispatchMode):
    """Whether any result of an operation has the size of all pairs of queries and keys."""

    def __init__(self, pairs: tuple[int, int]) -> None:
        super().__init__()
        self.pairs, self.found = pairs, False

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for output in result if isinstance(result, tuple) else (result,):
            if isinstance(output, Tensor) and output.shape[-2:] == self.pairs:
                self.found = True
        return result


@pytest.mark.parametrize('training', [False, True])
def test_attention__never_forms_the_weights(encoder: MixVisionTransformer, training: bool) -> None:
    # The first stage: 24 x 24 queries, 3 x 3 keys.
    block, x = encoder.layers[0][1][0], images(2, 24, 24, 8).requires_grad_(training)
    with LargestSquare((576, 9)) as ours:
        block(x).sum().backward() if training else block(x)
    their_block = TheirEncoder(**SMALL).layers[0][1][0]
    with LargestSquare((576, 9)) as theirs:
        their_block(x.flatten(1, 2), (24, 24))
    assert theirs.found
    assert not ours.found


def test_eps__by_group() -> None:
    encoder = MixVisionTransformer(**SMALL, patch_eps=0.1, block_eps=0.2, stage_eps=0.3)
    found = {n: m.eps for n, m in encoder.named_modules() if isinstance(m, nn.LayerNorm)}
    assert {n: eps for n, eps in found.items() if n.startswith('layers.1.')} == {
        'layers.1.0.norm': 0.1,
        'layers.1.1.0.norm1': 0.2,
        'layers.1.1.0.attn.norm': 0.1,
        'layers.1.1.0.norm2': 0.2,
        'layers.1.1.1.norm1': 0.2,
        'layers.1.1.1.attn.norm': 0.1,
        'layers.1.1.1.norm2': 0.2,
        'layers.1.2': 0.3,
    }
    assert 'layers.3.1.0.attn.norm' not in found  # keys of the last stage are not reduced


def test_drop_path__grows_from_block_to_block() -> None:
    encoder = MixVisionTransformer(**SMALL, drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob for stage in encoder.layers for block in stage[1]]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_out_indices__choose_stages(encoder: MixVisionTransformer) -> None:
    some = MixVisionTransformer(**SMALL, out_indices=(1, 3)).eval()
    some.load_state_dict(encoder.state_dict())
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        levels = encoder(x)
        assert all(map(torch.equal, some(x), (levels[1], levels[3])))
    assert some.out_channels == (16, 64)


def test_bfloat16__is_near(encoder: MixVisionTransformer) -> None:
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(x)
        with torch.autocast('cpu', torch.bfloat16):
            found = encoder(x)
    for level, reference in zip(found, expected, strict=True):
        assert (level.float() - reference).abs().mean() < 0.02 * reference.abs().mean()


@pytest.mark.parametrize(
    ('source', 'prefix'),
    [('nvlabs', ''), ('hf', 'some.encoder.'), ('hf-module', 'segformer.'), ('mmseg', 'backbone.')],
)
def test_names__there_and_back(encoder: MixVisionTransformer, source: str, prefix: str) -> None:
    own = encoder.state_dict()
    given = state_of(encoder, source, prefix)
    found, used = take_encoder(given, Naming(source, prefix), own)
    assert used == given.keys()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


@pytest.mark.parametrize('source', ['nvlabs', 'hf', 'mmseg'])
def test_checkpoint__of_each_source(
    encoder: MixVisionTransformer, source: str, tmp_path: Path
) -> None:
    prefix = {'nvlabs': '', 'hf': 'segformer.encoder.', 'mmseg': 'backbone.'}[source]
    tensors = state_of(encoder, source, prefix)
    # Of the classifier of the pre-training, or of the decoder.
    tensors |= {'head.weight': torch.ones(2, 3), 'decode_head.conv_seg.bias': torch.ones(3)}
    torch.save({'state_dict': tensors}, tmp_path / 'mit.pth')
    ours = MixVisionTransformer(**SMALL, checkpoint=str(tmp_path / 'mit.pth'))
    ours.init_weights()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(embed_dims=16), 'of another shape'),
        (dict(num_layers=(1, 2, 2, 1)), 'missing'),
    ],
)
def test_checkpoint__of_another_size(
    encoder: MixVisionTransformer, change: dict, message: str, tmp_path: Path
) -> None:
    torch.save(state_of(encoder, 'nvlabs'), tmp_path / 'mit.pth')
    with pytest.raises(ValueError, match=message):
        MixVisionTransformer(
            **(SMALL | change), checkpoint=str(tmp_path / 'mit.pth')
        ).init_weights()


def test_checkpoint__of_something_else(tmp_path: Path) -> None:
    torch.save({'layer1.0.conv1.weight': torch.ones(1)}, tmp_path / 'resnet.pth')
    encoder = MixVisionTransformer(**SMALL, checkpoint=str(tmp_path / 'resnet.pth'))
    with pytest.raises(ValueError, match=r'resnet\.pth: no encoder of SegFormer: got layer1'):
        encoder.init_weights()
    encoder = MixVisionTransformer(**SMALL, checkpoint=str(tmp_path / 'absent.pth'))
    with pytest.raises(FileNotFoundError, match=r'absent\.pth.*does not exist.*mit_b<0-5>\.pth'):
        encoder.init_weights()


def test_init_weights__of_linear_layers_are_narrow() -> None:
    encoder = MixVisionTransformer(**(SMALL | dict(embed_dims=32)))
    encoder.init_weights()
    block = encoder.layers[3][1][0]
    for weight in (
        block.attn.attn.in_proj_weight,
        block.attn.attn.out_proj.weight,
        block.ffn.layers[0].weight,
        block.ffn.layers[4].weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    # 9 inputs for each output of a depthwise convolution
    assert block.ffn.layers[1].weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(num_heads=(1, 2)), r'num_heads=\(1, 2\), expected a value for each of num_stages=4'),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\), expected stages from 0 to 3'),
        (dict(out_indices=()), 'expected stages from 0 to 3'),
        (dict(init_cfg=dict(type='Pretrained', checkpoint='x')), "checkpoint='x' of the backbone"),
    ],
)
def test_settings__that_do_not_fit(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixVisionTransformer(**(SMALL | settings))


def test_forward__image_too_small(encoder: MixVisionTransformer) -> None:
    with pytest.raises(ValueError, match=r'a map of 7 x 16 .* reduced 8 times.*test_cfg=dict'):
        encoder(images(1, 3, 28, 64))


@pytest.mark.parametrize('name', ['100e_person-parsing', '20e_magnetic-tile', '40e_synthetic'])
def test_configs__thin_photos_alone_are_padded(name: str) -> None:
    config = Config.fromfile(CONFIGS / f'segformer_mit-b0_1xb8-{name}.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        preprocessor = MODELS.build(config.model.data_preprocessor)
    for size, expected in (((3, 200), (32, 200)), ((200, 20), (200, 32)), ((45, 67), (45, 67))):
        data = dict(
            inputs=[torch.zeros(3, *size, dtype=torch.uint8)], data_samples=[SegDataSample()]
        )
        assert preprocessor(data)['inputs'].shape == (1, 3, *expected)
