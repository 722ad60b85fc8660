"""Files of DINOv3 weights: both kinds of names, and everything that can be wrong with a file."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MMLogger
from safetensors.torch import save_file
from torch import Tensor
from transformers import DINOv3ViTBackbone, DINOv3ViTConfig

from mmext.models.backbones.dinov3 import ARCHS, Arch, VisionTransformer
from mmext.models.backbones.dinov3_sta import DINOv3STA
from mmext.models.backbones.dinov3_weights import load_pretrained
from tests.reference_numbers import named_array, named_weight

SMALL = dict(embed_dims=128, mlp_channels=192)
State = dict[str, Tensor]


def small_arch(name: str) -> Arch:
    """An architecture with two heads only."""
    return ARCHS[name]._replace(**SMALL)


def published(name: str) -> State:
    """A file as Meta would have published it."""
    return dict(_published(name))


@functools.cache
def _published(name: str) -> State:
    state = VisionTransformer(small_arch(name)).state_dict()
    constant = ('periods', 'bias_mask')
    return {n: v if n.endswith(constant) else named_weight(n, v.shape) for n, v in state.items()}


@functools.cache
def transformers_model(name: str) -> DINOv3ViTBackbone:
    """With weights from names, for tests that change nothing."""
    arch = small_arch(name)
    model = DINOv3ViTBackbone(
        DINOv3ViTConfig(
            hidden_size=arch.embed_dims,
            intermediate_size=arch.mlp_channels,
            num_attention_heads=2,
            num_register_tokens=4,
            use_gated_mlp=arch.has_gated_mlp,
            hidden_act='silu' if arch.has_gated_mlp else 'gelu',
            layer_norm_eps=1e-5,
            out_indices=[index + 1 for index in arch.out_indices],  # theirs begin with the stem
        )
    ).eval()
    with torch.no_grad():
        for entry, value in model.state_dict().items():
            value.copy_(named_weight(entry, value.shape))
    return model


@pytest.mark.parametrize('prefix', ['model.layer.', 'layer.'])
@pytest.mark.parametrize('name', ['vits', 'vits_plus'])
@torch.no_grad()
def test_transformer__equals_that_of_transformers(tmp_path: Path, name: str, prefix: str) -> None:
    theirs = transformers_model(name)
    path = tmp_path / 'model.safetensors'
    state = theirs.state_dict()
    save_file({n.replace('model.layer.', prefix): v for n, v in state.items()}, path)
    ours = VisionTransformer(small_arch(name)).eval()
    load_pretrained(ours, path)

    image = named_array('image', (2, 3, 48, 80))
    for output, expected in zip(ours(image), theirs(image).feature_maps, strict=True):
        assert output.shape == (2, 128, 3, 5)
        assert torch.allclose(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    'wrap', [lambda s: s, lambda s: {'state_dict': s}], ids=['flat', 'wrapped']
)
@pytest.mark.parametrize('scope', ['', '_model.'], ids=['bare', '_model'])
def test_load__names_of_meta(tmp_path: Path, scope: str, wrap: Callable[[State], Any]) -> None:
    state = published('vit_tiny')
    # The stored periods count, not those that the formula gives.
    state['rope_embed.periods'] = state['rope_embed.periods'].bfloat16().float()
    path = tmp_path / 'vit.pth'
    torch.save(wrap({scope + n: v for n, v in state.items()}), path)
    vit = VisionTransformer(small_arch('vit_tiny'))
    load_pretrained(vit, path)
    assert all(torch.equal(value, state[n]) for n, value in vit.state_dict().items())


def test_load__constants_may_be_absent(tmp_path: Path) -> None:
    state = {n: v for n, v in published('vits').items() if not n.endswith(('periods', 'bias_mask'))}
    torch.save(state, tmp_path / 'vit.pth')
    vit = VisionTransformer(small_arch('vits'))
    load_pretrained(vit, tmp_path / 'vit.pth')
    mask = vit.state_dict()['blocks.11.attn.qkv.bias_mask']
    assert mask.tolist() == [1.0] * 128 + [0.0] * 128 + [1.0] * 128


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {n: v for n, v in state.items() if n not in names}


def replaced(name: str, value: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            without('blocks.3.attn.qkv.bias', 'storage_tokens'),
            r'2 missing: storage_tokens, blocks\.3\.attn\.qkv\.bias',
        ),
        (
            replaced('norm.weight', torch.ones(64)),
            r'1 of another shape: norm\.weight \(64,\) instead of \(128,\)',
        ),
        (
            replaced('blocks.0.attn.qkv.bias_mask', torch.full((384,), torch.nan)),
            r'1 not finite: blocks\.0\.attn\.qkv\.bias_mask',
        ),
        (lambda state: {'x': torch.ones(1)}, r'missing: cls_token, .*, \.\.\.'),
    ],
    ids=['partial', 'shape', 'nan', 'empty'],
)
def test_load__file_that_does_not_fill_the_transformer(
    tmp_path: Path, change: Callable[[State], State], message: str
) -> None:
    torch.save(change(published('vits')), tmp_path / 'vit.pth')
    vit = VisionTransformer(small_arch('vits'))
    before = {n: v.clone() for n, v in vit.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_pretrained(vit, tmp_path / 'vit.pth')
    assert all(torch.equal(v, before[n]) for n, v in vit.state_dict().items())


def test_load__tiny_transformer_needs_the_bias_of_the_keys(tmp_path: Path) -> None:
    """transformers drops it, and without it the positions mean something else."""
    path = tmp_path / 'model.safetensors'
    save_file(transformers_model('vits').state_dict(), path)
    with pytest.raises(ValueError, match=r'12 missing: blocks\.0\.attn\.qkv\.bias, '):
        load_pretrained(VisionTransformer(small_arch('vit_tiny')), path)


@pytest.mark.parametrize('scope', ['backbone.dinov3.', 'backbone.dinov3._model.'])
def test_load__from_the_file_of_a_detector(tmp_path: Path, scope: str) -> None:
    state = published('vit_tiny')
    whole = {scope + n: v for n, v in state.items()} | {'decoder.up': torch.ones(1)}
    torch.save({'model': {}, 'ema': {'module': whole}}, tmp_path / 'deim.pth')
    vit = VisionTransformer(small_arch('vit_tiny'))
    load_pretrained(vit, tmp_path / 'deim.pth')
    assert all(torch.equal(value, state[n]) for n, value in vit.state_dict().items())


@pytest.mark.parametrize(
    ('name', 'message'),
    [('vit.pth', 'vit.pth is not a checkpoint'), ('vit.safetensors', 'cannot be read')],
)
def test_load__damaged_file(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'not a checkpoint')
    with pytest.raises(ValueError, match=message):
        load_pretrained(VisionTransformer(small_arch('vit_tiny')), path)


def test_init_weights__missing_file() -> None:
    backbone = DINOv3STA('vit_tiny', sta_channels=8, out_channels=16, checkpoint='absent.pth')
    with pytest.raises(FileNotFoundError, match=r'absent\.pth .*does not exist.*checkpoint=None'):
        backbone.init_weights()


def test_init_weights__fills_the_transformer_only(tmp_path: Path) -> None:
    names = DINOv3STA('vit_tiny', sta_channels=8, out_channels=16).vit.state_dict()
    state = {n: named_weight(n, v.shape) for n, v in names.items()}
    torch.save(state, tmp_path / 'vit.pth')
    path = str(tmp_path / 'vit.pth')
    backbone = DINOv3STA('vit_tiny', sta_channels=8, out_channels=16, checkpoint=path)
    stem = backbone.sta.stem[0].weight.clone()
    backbone.init_weights()
    assert all(torch.equal(v, state[n]) for n, v in backbone.vit.state_dict().items())
    assert torch.equal(backbone.sta.stem[0].weight, stem)


def test_init_weights__says_that_weights_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'log', lambda level, message: lines.append(f'{level} {message}'))
    DINOv3STA('vit_tiny', sta_channels=8, out_channels=16).init_weights()
    assert [line for line in lines if line.startswith('30') and 'random weights' in line]
