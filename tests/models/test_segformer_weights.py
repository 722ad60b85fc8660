"""Weights of SegFormer under other names: against transformers, there and back, and what can be wrong with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule
from mmseg.models import EncoderDecoder
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from mmext.models.common.mit_names import Naming
from mmext.models.segformer.weights import (
    DEPTHS,
    Detected,
    convert_state_dict,
    part_configs,
    revert_state_dict,
)
from mmext.registry import MODELS
from tests.models.segformer_models import fill

State = dict[str, Tensor]
SMALL: dict[str, Any] = dict(embed_dims=8, num_layers=(1, 2, 1, 1), channels=12, num_classes=5)
SOURCES = ('nvlabs', 'hf', 'hf-module')


class Network(BaseModule):
    """Encoder and decoder, as `EncoderDecoder` holds them."""

    def __init__(self, detected: Detected) -> None:
        super().__init__()
        for name, cfg in part_configs(detected).items():
            setattr(self, name, MODELS.build(cfg))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_head(self.backbone(x))


def transformers_model(
    embed_dims: int, num_layers: tuple[int, ...], channels: int, num_classes: int
) -> nn.Module:
    config = SegformerConfig(
        depths=list(num_layers),
        hidden_sizes=[embed_dims * heads for heads in (1, 2, 5, 8)],
        decoder_hidden_size=channels,
        num_labels=num_classes,
        attn_implementation='eager',
    )
    model = SegformerForSemanticSegmentation(config).eval()
    fill(model)
    return model


def images(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def assert_same_logits(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        found, expected = ours.eval()(x), theirs(x).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found.argmax(1) == expected.argmax(1)).all()


@pytest.fixture(scope='module')
def module_state() -> State:
    """Of a small module of transformers."""
    return transformers_model(**SMALL).state_dict()


@pytest.fixture(scope='module')
def own(module_state: State) -> State:
    return convert_state_dict(module_state)[0]


def check_against_transformers(x: Tensor, **settings: Any) -> None:
    theirs = transformers_model(**settings)
    state, report = convert_state_dict(theirs.state_dict())
    ours = Network(report.detected)
    ours.load_state_dict(state)
    assert_same_logits(ours, theirs, x)
    ours.decode_head.eval().switch_to_deploy()
    assert_same_logits(ours, theirs, x)
    # And back: weights of ours in a module of theirs.
    ours.decode_head.restore_from_deploy()
    for parameter in ours.parameters():
        parameter.data.mul_(0.9)
    theirs.load_state_dict(revert_state_dict(ours.state_dict(), 'hf-module')[0])
    assert_same_logits(ours, theirs, x)


def test_logits__equal_transformers() -> None:
    check_against_transformers(images(61, 99), **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    'settings',
    [
        dict(embed_dims=32, num_layers=(2, 2, 2, 2), channels=256),
        dict(embed_dims=64, num_layers=(3, 4, 6, 3), channels=768),
    ],
    ids=['b0', 'b2'],
)
def test_logits__equal_transformers_in_size(settings: dict) -> None:
    check_against_transformers(images(130, 190), **settings, num_classes=150)


@pytest.mark.slow
def test_files__of_transformers_there_and_back(own: State, tmp_path: Path) -> None:
    """`save_pretrained` writes the names of the hub, and `from_pretrained` reads what we write."""
    theirs = transformers_model(**SMALL)
    theirs.save_pretrained(tmp_path / 'saved')
    found, report = convert_state_dict(load_file(tmp_path / 'saved' / 'model.safetensors'))
    assert report.detected.naming == ('hf', 'segformer.encoder.')
    assert all(torch.equal(found[name], own[name]) for name in own)

    for tensor in found.values():
        tensor.mul_(2)
    theirs.config.save_pretrained(tmp_path / 'given')
    torch.save(revert_state_dict(found, 'hf')[0], tmp_path / 'given' / 'pytorch_model.bin')
    again = SegformerForSemanticSegmentation.from_pretrained(tmp_path / 'given').state_dict()
    assert all(torch.equal(again[name], 2 * tensor) for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize('source', SOURCES)
def test_names__there_and_back(own: State, source: str) -> None:
    given, detected = revert_state_dict(own, source)
    assert detected[1:] == ('paper', *SMALL.values())
    found, report = convert_state_dict(given)
    assert list(found) == list(own)
    assert all(torch.equal(found[name], own[name]) for name in own)
    assert report.detected.naming.source == source
    assert report.refilled == report.ignored == ()
    back, _ = revert_state_dict(found, source)
    assert back.keys() == given.keys()
    assert all(torch.equal(back[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ('source', 'name', 'where', 'shape'),
    [
        ('nvlabs', 'backbone.block2.1.attn.kv.weight', ('layers.1.1.1.attn.attn.in_proj_weight', 16, 48), (32, 16)),
        ('nvlabs', 'backbone.block1.0.mlp.fc2.weight', ('layers.0.1.0.ffn.layers.4.weight', 0, 8), (8, 32)),
        ('nvlabs', 'decode_head.linear_c4.proj.weight', ('convs.3.weight', 0, 12), (12, 64)),
        ('nvlabs', 'decode_head.linear_fuse.bn.running_var', ('fusion_conv.bn.running_var', 0, 12), (12,)),
        ('hf', 'segformer.encoder.block.1.1.attention.self.key.bias', ('layers.1.1.1.attn.attn.in_proj_bias', 16, 32), (16,)),
        ('hf', 'segformer.encoder.layer_norm.3.bias', ('layers.3.2.bias', 0, 64), (64,)),
        ('hf', 'decode_head.linear_c.3.proj.bias', ('convs.3.bias', 0, 12), (12,)),
        ('hf-module', 'segformer.stages.1.blocks.1.attention.v_proj.weight', ('layers.1.1.1.attn.attn.in_proj_weight', 32, 48), (16, 16)),
        ('hf-module', 'decode_head.linear_projections.0.proj.weight', ('convs.0.weight', 0, 12), (12, 8)),
    ],
)  # fmt: skip
def test_names__written_out(
    own: State, source: str, name: str, where: tuple[str, int, int], shape: tuple[int, ...]
) -> None:
    part, begin, end = where
    prefix = 'backbone.' if part.startswith('layers') else 'decode_head.'
    expected = own[prefix + part][begin:end].reshape(shape)
    assert torch.equal(revert_state_dict(own, source)[0][name], expected)


def test_nvlabs__second_classifier_is_left_out_and_settings_are_theirs(own: State) -> None:
    given, _ = revert_state_dict(own, 'nvlabs')
    given['decode_head.conv_seg.weight'] = torch.ones(7, 12, 1, 1)
    del given['decode_head.linear_fuse.bn.num_batches_tracked']
    found, report = convert_state_dict(given)
    assert report.ignored == ('decode_head.conv_seg.weight',)
    assert report.refilled == ('decode_head.fusion_conv.bn.num_batches_tracked',)
    assert found.keys() == own.keys()
    parts = part_configs(report.detected)
    eps = [parts['backbone'][f'{group}_eps'] for group in ('patch', 'block', 'stage')]
    assert eps == [1e-5, 1e-6, 1e-6]
    assert parts['decode_head']['dropout_type'] == 'Dropout2d'


def test_mmseg__keeps_its_decoder() -> None:
    detected = Detected(Naming('mmseg', 'backbone.'), 'mmseg', *SMALL.values())
    parts = part_configs(detected)
    their_encoder = {k: v for k, v in parts['backbone'].items() if not k.endswith('_eps')}
    theirs = EncoderDecoder(
        backbone=their_encoder | dict(type='mmseg.MixVisionTransformer', num_heads=[1, 2, 5, 8]),
        decode_head=parts['decode_head'] | dict(type='mmseg.SegformerHead'),
    ).eval()
    fill(theirs)
    found, report = convert_state_dict(theirs.state_dict())
    assert report.detected == detected
    ours = Network(detected).eval()
    ours.load_state_dict(found)
    x = images(61, 99)
    with torch.no_grad():
        expected = theirs.decode_head(theirs.backbone(x))
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
    back, _ = revert_state_dict(found, 'mmseg')
    assert list(back) == list(theirs.state_dict())
    for source in SOURCES:
        with pytest.raises(ValueError, match=f'got the decoder of mmseg for {source}'):
            revert_state_dict(found, source)


def test_sizes__have_their_names() -> None:
    naming = Naming('nvlabs', 'backbone.')
    titles = [Detected(naming, 'paper', *depths, 256, 150).title for depths in DEPTHS]
    assert titles == [f'SegFormer MiT-B{number}' for number in range(6)]
    own_size = Detected(naming, 'paper', 8, (1, 2, 1, 1), 12, 5)
    assert own_size.title == 'SegFormer of 8 channels and (1, 2, 1, 1) blocks'


def spoil(state: State, name: str, tensor: Tensor | None) -> State:
    changed = dict(state)
    if tensor is None:
        del changed[name]
    else:
        changed[name] = tensor
    return changed


@pytest.mark.parametrize(
    ('name', 'tensor', 'message'),
    [
        ('backbone.norm3.bias', None, r'backbone\.layers\.2\.2\.bias: missing'),
        ('backbone.norm3.bias', torch.ones(3), r'layers\.2\.2\.bias: got \[3\], expected \[40\]'),
        ('backbone.norm9.bias', torch.ones(3), r'backbone\.norm9\.bias: not part of the model'),
        ('decode_head.linear_c2.proj.bias', None, r'decode_head\.convs\.1\.bias: missing'),
        (
            'backbone.block1.0.attn.q.weight',
            torch.ones(9, 8),
            r'attn\.q\.weight \[9, 8\].* expected \[9, 8\], \[18, 8\]',
        ),
        ('backbone.norm3.bias', torch.full((40,), torch.nan), r'layers\.2\.2\.bias are not finite'),
        (
            'decode_head.linear_pred.weight',
            None,
            r'no decode_head\.linear_pred\.weight: got an enc',
        ),
    ],
)
def test_convert__refuses(own: State, name: str, tensor: Tensor | None, message: str) -> None:
    state = spoil(revert_state_dict(own, 'nvlabs')[0], name, tensor)
    with pytest.raises(ValueError, match=message):
        convert_state_dict(state)


def test_convert__refuses_its_own_and_what_is_none(own: State) -> None:
    with pytest.raises(ValueError, match="have mmext's names already"):
        convert_state_dict(own)
    with pytest.raises(ValueError, match='no encoder of SegFormer: got conv1'):
        convert_state_dict({'conv1.weight': torch.ones(1)})
    with pytest.raises(ValueError, match='got the decoder of the paper for mmseg'):
        revert_state_dict(own, 'mmseg')
