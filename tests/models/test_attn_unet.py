"""Attention gates, decoder and head: their arithmetic by hand, their sizes, what they refuse."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from mmext.models.attn_unet.gate import AttentionGate, SameSizeAttentionGate
from mmext.models.attn_unet.head import AttentionUNetHead
from mmext.models.attn_unet.objective import MatteTruth, matte_accuracy, matte_logits
from tests.models.matte_models import build_tiny

RESNET50 = (64, 256, 512, 1024, 2048)
BCE = dict(type='mmext.MatteBCELoss')
GRID = dict(type='mmext.AttentionGate')
SAME = dict(type='mmext.SameSizeAttentionGate')


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_head(**settings: object) -> AttentionUNetHead:
    torch.manual_seed(0)
    defaults = dict(in_channels=(4, 8, 8), stage_channels=(8, 6, 4), gate=GRID, loss_decode=[BCE])
    return AttentionUNetHead(**(defaults | settings))


def small_features(height: int = 16, width: int = 24) -> list[Tensor]:
    sizes = [(height, width), (height // 2, width // 2), (height // 4, width // 4)]
    return [random_map(2, c, *size, seed=c) for c, size in zip((4, 8, 8), sizes, strict=True)]


def test_grid_gate__is_what_its_paper_says():
    gate = AttentionGate(4, 6, transform_output=False)
    skip, gating = random_map(1, 4, 6, 8), random_map(1, 6, 3, 4, seed=1)
    # Each 2 x 2 block of the skip connection meets one pixel of the gating map.
    blocks = skip[0].reshape(4, 3, 2, 4, 2).double().numpy()
    theta = np.einsum('chywx,fcyx->fhw', blocks, gate.theta.weight.detach().double().numpy())
    phi = np.einsum('chw,fc->fhw', gating[0].numpy(), gate.phi.weight.detach()[..., 0, 0].numpy())
    phi = phi + gate.phi.bias.detach().numpy()[:, None, None]
    score = np.einsum(
        'fhw,f->hw', np.maximum(theta + phi, 0), gate.psi.weight.detach()[0, :, 0, 0].numpy()
    )
    coefficients = 1 / (1 + np.exp(-score - gate.psi.bias.item()))
    attention = cv2.resize(coefficients, (8, 6), interpolation=cv2.INTER_LINEAR)
    gated = gate(skip, gating)
    np.testing.assert_allclose(gated.attention[0, 0].detach(), attention, atol=1e-6)
    np.testing.assert_allclose(gated.features[0].detach(), attention * skip[0].numpy(), atol=1e-5)


@pytest.mark.parametrize('form', [AttentionGate, SameSizeAttentionGate], ids=['grid', 'same'])
@pytest.mark.parametrize('size', [(33, 47), (2, 2), (2, 9)], ids=str)
def test_gate__odd_sizes(form, size):
    gate = form(5, 3)
    gating = random_map(2, 3, *(-(-side // 2) for side in size))
    gated = gate(random_map(2, 5, *size), gating)
    assert gated.features.shape == (2, 5, *size) and gated.attention.shape == (2, 1, *size)
    assert ((gated.attention > 0) & (gated.attention < 1)).all()


@pytest.mark.parametrize('form', [AttentionGate, SameSizeAttentionGate], ids=['grid', 'same'])
def test_gate__starts_as_open_as_it_is_told(form):
    gate = form(4, 4, psi_bias_init=3.0).eval()
    torch.nn.init.zeros_(gate.psi.weight if form is AttentionGate else gate.psi[0].weight)
    if form is SameSizeAttentionGate:
        torch.nn.init.zeros_(gate.psi[0].bias)
    attention = gate(random_map(1, 4, 4, 4), random_map(1, 4, 2, 2)).attention
    torch.testing.assert_close(attention, torch.full((1, 1, 4, 4), 3.0).sigmoid())


def test_grid_gate__combined_output_is_not_negative():
    plain, combined = AttentionGate(4, 4), AttentionGate(4, 4, combine=True)
    extra = {name for name, _ in combined.named_parameters()} - dict(
        plain.named_parameters()
    ).keys()
    assert len(extra) == 4  # weight and bias of a convolution and of a norm
    inputs = random_map(1, 4, 8, 8), random_map(1, 4, 4, 4, seed=1)
    assert (combined(*inputs).features >= 0).all() and (plain(*inputs).features < 0).any()


@pytest.mark.parametrize(
    ('stage_channels', 'transform_output', 'millions'),
    [
        ((256, 128, 64, 32, 16), True, 9.77),
        ((256, 128, 64, 32, 16), False, 8.39),
        ((512, 256, 128, 64, 32), True, 18.93),
    ],
    ids=['with-W', 'without-W', 'wide'],
)
def test_head__parameters_on_a_resnet50(stage_channels, transform_output, millions):
    gate = dict(GRID, transform_output=transform_output)
    with torch.device('meta'):
        head = AttentionUNetHead(RESNET50, stage_channels, gate=gate, loss_decode=[BCE])
    assert round(sum(p.numel() for p in head.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize('gate', [GRID, SAME], ids=['grid', 'same'])
@pytest.mark.parametrize('block', ['plain', 'separable'])
def test_head__twice_the_finest_map(gate, block):
    head = small_head(gate=gate, block=block).eval()
    features = small_features()
    assert head(features).shape == (2, 1, 32, 48)
    decoded = head.decode(features)
    assert [tuple(m.shape[1:]) for m in decoded.stages] == [(8, 8, 12), (6, 16, 24), (4, 32, 48)]
    assert [tuple(m.shape[2:]) for m in decoded.attention] == [(8, 12), (16, 24)]


@pytest.mark.parametrize('gate', [GRID, SAME], ids=['grid', 'same'])
def test_head__group_norm_fits_any_number_of_channels(gate):
    head = small_head(gate=gate, norm_cfg=dict(type='GN', num_groups=32))
    groups = {m.num_channels: m.num_groups for m in head.modules() if hasattr(m, 'num_groups')}
    assert groups[8] == 8 and groups[6] == 2 and groups[4] == 4
    # One image is enough for it, where batch norms would have a single value a channel.
    head([m[:1] for m in small_features(8, 8)]).sum().backward()


def truth(height: int = 32, width: int = 48) -> MatteTruth:
    alpha = random_map(2, 1, height, width, seed=5).sigmoid()
    return MatteTruth(
        alpha, torch.ones_like(alpha, dtype=torch.bool), torch.rand(2, 3, height, width)
    )


def test_head__deep_supervision_of_the_first_stages():
    head = small_head(
        aux_loss_decode=[BCE], aux_stages=(0, 1), aux_weight=0.4, skip_dropout=0, centre_dropout=0
    )
    features, wanted = small_features(), truth()
    losses = head.matte_losses(features, wanted)
    assert set(losses) == {'loss_bce', 'stage_0.loss_bce', 'stage_1.loss_bce', 'acc_matte'}
    logits = torch.nn.functional.interpolate(
        head.aux_convs[1](head.decode(features).stages[1]), size=(32, 48), mode='bilinear'
    )
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted.alpha)
    torch.testing.assert_close(losses['stage_1.loss_bce'], 0.4 * plain)


def test_head__two_logits_are_a_softmax():
    seg_logits = small_head(num_logits=2).eval()(small_features())
    assert seg_logits.shape == (2, 2, 32, 48)
    torch.testing.assert_close(matte_logits(seg_logits).sigmoid(), seg_logits.softmax(dim=1)[:, 1:])


def test_accuracy__counts_valid_pixels_on_the_right_side():
    # Of four pixels one is unknown, and one of the others is on the wrong side.
    logits = torch.tensor([2.0, -2.0, 2.0, 2.0]).reshape(1, 1, 2, 2)
    alpha = torch.tensor([0.9, 0.1, 0.2, 0.0]).reshape(1, 1, 2, 2)
    valid = torch.tensor([True, True, True, False]).reshape(1, 1, 2, 2)
    given = MatteTruth(alpha, valid, torch.zeros(1, 3, 2, 2))
    assert matte_accuracy(logits, given, 0.5, align_corners=False).item() == pytest.approx(200 / 3)
    unknown = given._replace(valid=torch.zeros_like(valid))
    assert matte_accuracy(logits, unknown, 0.5, align_corners=False).item() == 0


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(block='dense'), 'block'),
        (dict(num_logits=3), 'num_logits=3'),
        (dict(threshold=1.0), 'threshold'),
        (dict(aux_loss_decode=[BCE], aux_stages=(2,)), 'aux_stages'),
        (dict(stage_channels=(8, 4)), 'stage_channels'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_head__refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        small_head(**settings)


def test_head__refuses_the_losses_of_mmseg():
    with pytest.raises(ValueError, match='MatteEncoderDecoder'):
        small_head().loss([], [], None)


def test_gates__learn_in_every_stage_but_the_last():
    model = build_tiny()
    features = model.backbone(random_map(2, 3, 64, 64))
    model.decode_head(features).sum().backward()
    gates = [stage.gate for stage in model.decode_head.decoder.stages if stage.gate is not None]
    assert len(gates) == 4
    assert all(gate.psi.weight.grad.abs().sum() > 0 for gate in gates)
