"""Decoders of SegFormer: the same as written in the paper and as in mmseg, in training, evaluation and deploy form."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from mmext.models.common.folding import is_deployed
from mmext.models.segformer import FastSegformerHead, SegformerMLPHead
from tests.models.segformer_models import (
    WIDTHS,
    fill,
    make_levels,
    mmseg_head,
    mmseg_settings,
    paper_decoder,
)

LOSS = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True)
# The finest maps are 16 x 16, 9 x 13 and 1 x 1.
SIZES = [(64, 64), (35, 50), (3, 3)]
Head = SegformerMLPHead | FastSegformerHead
Reference = Callable[[Sequence[Tensor]], Tensor]


def paper_head(**settings: object) -> SegformerMLPHead:
    cfg = dict(in_channels=WIDTHS, channels=12, num_classes=5, dropout_ratio=0.0, loss_decode=LOSS)
    head = SegformerMLPHead(**cfg | settings)
    fill(head)
    return head.eval()


def fast_head(**settings: object) -> FastSegformerHead:
    head = FastSegformerHead(**mmseg_settings(**settings))
    fill(head)
    return head.eval()


def with_reference(kind: str, **settings: object) -> tuple[Head, nn.Module, Reference]:
    """A head, a twin with the same weights, and the decoder of the twin as others compute it."""
    if kind == 'paper':
        head = paper_head(**settings)
        twin = copy.deepcopy(head)
        return head, twin, lambda levels: paper_decoder(twin, levels)
    fast, theirs = fast_head(**settings), mmseg_head(**settings).eval()
    theirs.load_state_dict(fast.state_dict())
    return fast, theirs, theirs


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=['paper', 'mmseg'])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.filterwarnings('ignore:When align_corners=True')  # mmseg's advice about sizes
@pytest.mark.parametrize(
    ('size', 'align_corners'), [*((size, False) for size in SIZES), ((35, 50), True)], ids=str
)
def test_evaluation__equals_reference(
    kind: str, size: tuple[int, int], align_corners: bool
) -> None:
    head, _, reference = with_reference(kind, align_corners=align_corners)
    levels = make_levels(size)
    with torch.no_grad():
        expected = reference(levels)
        assert_close(head(levels), expected)
        head.switch_to_deploy()
        assert_close(head(levels), expected)


@pytest.mark.parametrize('mode', ['nearest', 'bicubic', 'area'])
def test_evaluation__of_other_resizing(mode: str) -> None:
    head, _, reference = with_reference('mmseg', interpolate_mode=mode, align_corners=None)
    levels = make_levels((35, 50))
    with torch.no_grad():
        assert_close(head(levels), reference(levels))


@pytest.mark.parametrize('training', [True, False], ids=['statistics of the batch', 'fixed'])
def test_gradients__equal_reference(kind: str, training: bool) -> None:
    head, twin, reference = with_reference(kind)
    head.train(training)
    twin.train(training)
    ours, theirs = make_levels((35, 50)), make_levels((35, 50))
    weights = torch.randn(2, 5, 9, 13, generator=torch.Generator().manual_seed(3))
    for forward, levels in ((head, ours), (reference, theirs)):
        (forward(levels) * weights).sum().backward()
    expected = dict(twin.named_parameters())
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4)
    for found, level in zip(ours, theirs, strict=True):
        assert_close(found.grad, level.grad)
    for found, buffer in zip(head.buffers(), twin.buffers(), strict=True):
        assert_close(found, buffer)


def test_gradients__reach_both_factors() -> None:
    head = paper_head().train()
    head(make_levels((64, 64))).square().sum().backward()
    for conv in head.convs:
        assert conv.weight.grad.abs().max() > 0
    blocks = head.fusion_conv.conv.weight.grad.chunk(4, dim=1)
    assert all(block.abs().max() > 0 for block in blocks)


def test_levels__need_not_be_four() -> None:
    head = paper_head(in_channels=WIDTHS[:2], in_index=(1, 2))
    levels = make_levels((64, 64))
    maps = [levels[0], levels[0][:, :, ::2], levels[1], levels[3]]
    with torch.no_grad():
        assert_close(head(maps), paper_decoder(head, maps[1:3]))
        single = paper_head(in_channels=WIDTHS[:1])
        assert_close(single(levels), paper_decoder(single, levels[:1]))


def test_deploy__changes_no_entry_and_is_no_training(kind: str) -> None:
    head, _, _ = with_reference(kind)
    levels = make_levels((64, 64))
    before = copy.deepcopy(head.state_dict())
    head.switch_to_deploy()
    with torch.no_grad():
        once = head(levels)
        head.switch_to_deploy()
        assert torch.equal(head(levels), once)
    assert is_deployed(head)
    after = head.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(ValueError, match=r'got train\(\) for a model in deploy form'):
        head.train()


def test_deploy__can_be_undone(kind: str) -> None:
    head, twin, _ = with_reference(kind)
    levels = make_levels((64, 64))
    with torch.no_grad():
        before = head(levels)
        head.switch_to_deploy()
        head.restore_from_deploy()
        head.restore_from_deploy()
        assert torch.equal(head(levels), before)
    assert not is_deployed(head)
    head.train()(levels).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_deploy__is_made_again_from_loaded_weights(kind: str) -> None:
    head, _, reference = with_reference(kind)
    levels = make_levels((64, 64))
    weights = copy.deepcopy(head.state_dict())
    for parameter in head.parameters():
        parameter.data.mul_(-1)
    head.switch_to_deploy()
    head.load_state_dict(weights)
    with torch.no_grad():
        assert_close(head(levels), reference(levels))


def test_deploy__refused(kind: str) -> None:
    head, _, _ = with_reference(kind, norm_cfg=dict(type='GN', num_groups=3))
    with pytest.raises(ValueError, match='got GroupNorm behind a convolution'):
        head.switch_to_deploy()
    head, _, _ = with_reference(kind)
    with pytest.raises(ValueError, match='in training mode'):
        head.train().switch_to_deploy()


@pytest.mark.parametrize('norm_cfg', [dict(type='GN', num_groups=3), None], ids=['group', 'none'])
def test_norm__other_or_none(norm_cfg: dict | None) -> None:
    head, _, reference = with_reference('mmseg', norm_cfg=norm_cfg)
    levels = make_levels((35, 50))
    with torch.no_grad():
        assert_close(head(levels), reference(levels))
        if norm_cfg is None:
            head.switch_to_deploy()
            assert_close(head(levels), reference(levels))


def test_evaluation__sees_weights_that_change(kind: str) -> None:
    head, twin, reference = with_reference(kind)
    levels = make_levels((64, 64))
    with torch.no_grad():
        head(levels)
        for network in (head, twin):
            for parameter in network.parameters():
                parameter.data.mul_(0.5)  # as exponential averages are swapped in
        assert_close(head(levels), reference(levels))


def test_fast_head__has_the_entries_of_mmseg() -> None:
    ours, theirs = fast_head().state_dict(), mmseg_head().state_dict()
    assert list(ours) == list(theirs)
    assert [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]


@pytest.mark.parametrize('dropout_type', ['Dropout', 'Dropout2d'])
def test_dropout__of_values_or_of_channels(dropout_type: str) -> None:
    head = paper_head(channels=64, num_classes=64, dropout_ratio=0.5, dropout_type=dropout_type)
    nn.init.eye_(head.conv_seg.weight.data[:, :, 0, 0])
    nn.init.zeros_(head.conv_seg.bias)
    dropped = head.train().cls_seg(torch.ones(1, 64, 8, 8)) == 0
    share_of_channel = dropped.float().mean(dim=(0, 2, 3))
    whole = ((share_of_channel == 0) | (share_of_channel == 1)).all()
    assert whole == (dropout_type == 'Dropout2d')
    assert 0.2 < share_of_channel.mean() < 0.8
    assert (head.eval().cls_seg(torch.ones(1, 64, 8, 8)) == 1).all()


@pytest.mark.parametrize('training', [True, False])
def test_bfloat16__is_near(kind: str, training: bool) -> None:
    head, _, _ = with_reference(kind)
    head.train(training)
    levels = make_levels((64, 64))
    with torch.no_grad():
        expected = head(levels)
        with torch.autocast('cpu', torch.bfloat16):
            found = head(levels)
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_half_weights__are_multiplied_in_full_precision() -> None:
    head = paper_head()
    levels = make_levels((64, 64))
    with torch.no_grad():
        expected = head(levels)
        found = head.bfloat16()([level.bfloat16() for level in levels])
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(dropout_type='dropout'), r"got dropout_type='dropout', expected one of \['Dropout'"),
        (dict(in_index=(0, 1)), r'got in_index=\[0, 1\] for in_channels=\[8, 16, 40, 64\]'),
    ],
)
def test_settings__that_do_not_fit(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paper_head(**settings)
