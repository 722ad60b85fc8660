"""Deploy form of every DEIMv2 size: outputs, state, and that nothing foldable is left."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmext.models.backbones.dinov3 import ARCHS, SelfAttention
from mmext.models.backbones.dinov3_rotary import RotaryEmbedding
from mmext.models.common.folding import switch_to_deploy
from mmext.models.deim.detector import DEIM
from mmext.models.deim.hybrid_encoder import get_position_codes, position_codes
from mmext.models.deim.variants import VARIANTS
from mmext.registry import MODELS
from tests.models.deim_models import detector_config, fill_by_name
from tests.reference_numbers import named_array

FAST = ('atto',)
NAMES = [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in VARIANTS]


def build_detector(name: str) -> DEIM:
    detector = MODELS.build(detector_config(VARIANTS[name]))
    for prefix in ('backbone', 'neck', 'decoder'):
        fill_by_name(getattr(detector, prefix), f'{prefix}.')
    return detector.eval()


def detect(detector: DEIM, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """The encoder's maps, and logits and boxes of the queries."""
    maps = detector.extract_feat(image)
    last = detector.decoder(maps).layers[-1]
    return maps, last.logits[0], last.boxes[0]


@torch.no_grad()
@pytest.mark.parametrize('name', NAMES)
def test_deploy__outputs_and_state_of_the_training_form(name: str) -> None:
    detector = build_detector(name)
    image = named_array('image', (1, 3, 128, 128) if name in FAST else (1, 3, 256, 192))
    maps, logits, boxes = detect(detector, image)
    state = {key: value.clone() for key, value in detector.state_dict().items()}

    norms = 0

    def count(*_: object) -> None:
        nonlocal norms
        norms += 1

    for module in detector.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(count)
    detector.switch_to_deploy()
    deployed_maps, deployed_logits, deployed_boxes = detect(detector, image)

    assert norms == 0
    for own, expected in zip(deployed_maps, maps, strict=True):
        assert (own - expected).abs().max() < 1e-5 * expected.abs().max()
    # Queries of nearly equal score may have swapped places.
    errors = (deployed_logits[:, None] - logits).abs().amax(dim=-1)  # deployed x original
    own = errors.argmin(dim=0)
    assert len(own.unique()) == len(own)
    assert (deployed_logits[own] - logits).abs().max() < 1e-5
    assert (deployed_boxes[own] - boxes).abs().max() < 1e-5
    torch.testing.assert_close(dict(detector.state_dict()), state, atol=0, rtol=0)


def test_position_codes__kept_for_each_size() -> None:
    kept = [get_position_codes(h, w, 8, torch.device('cpu')) for h, w in ((3, 5), (5, 3), (3, 5))]
    assert kept[0] is kept[2]
    assert not kept[0].is_inference()
    for codes, (height, width) in zip(kept, ((3, 5), (5, 3)), strict=False):
        torch.testing.assert_close(codes, position_codes(height, width, 8))


@pytest.mark.parametrize('exporting', [False, True], ids=['complex', 'real'])
def test_rotate_pairs__turns_each_pair_by_its_angle(
    exporting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: exporting)
    tables = RotaryEmbedding(1, None).eval()(2, 3, 1)[0]
    x = named_array('x', (1, 7, 2, 1, 64))
    turned = tables.rotate_pairs(x.clone())
    assert torch.equal(turned[:, 0], x[:, 0])  # the prefix token has no position
    # Patch (1, 2) of 2 x 3: its centre is at y = 0.5, x = 2 / 3; 16 periods of y, then 16 of x.
    for pair, position in ((3, 0.5), (16 + 5, 2 / 3)):
        angle = 2 * math.pi * position / 100 ** (pair % 16 / 16)
        a, b = x[0, 6, 1, 0, 2 * pair : 2 * pair + 2].tolist()
        expected = (
            a * math.cos(angle) - b * math.sin(angle),
            b * math.cos(angle) + a * math.sin(angle),
        )
        assert turned[0, 6, 1, 0, 2 * pair : 2 * pair + 2].tolist() == pytest.approx(
            expected, abs=1e-5
        )


@torch.no_grad()
@pytest.mark.parametrize('arch', ['vit_tiny', 'vits'])
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)], ids=str
)
def test_attention__deployed(arch: str, dtype: torch.dtype, tolerance: float) -> None:
    attention = fill_by_name(SelfAttention(ARCHS[arch]), 'attn.')
    tables = RotaryEmbedding(1, None).eval()(3, 4, 1)[0]
    x = named_array('x', (2, 13, ARCHS[arch].embed_dims))
    expected = attention(x, tables)
    switch_to_deploy(attention)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        deployed = attention(x, tables)
    assert deployed.dtype == dtype
    torch.testing.assert_close(deployed.float(), expected, atol=tolerance, rtol=tolerance)
