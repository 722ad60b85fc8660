"""FastMask2FormerHead against mmdet's Mask2FormerHead, and on what users can get wrong."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.layers import SinePositionalEncoding
from mmdet.models.utils import get_uncertain_point_coords_with_randomness
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmext.models.query_seg import criterion, points
from mmext.models.query_seg.decoder import encode_positions
from mmext.models.query_seg.points import PointRule
from tests.models.mask2former_models import (
    attention_config,
    head_config,
    make_features,
    make_heads,
    make_samples,
    train_config,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def run_loss(
    head: Mask2FormerHead, features: list[Tensor], samples: list[DetDataSample]
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Losses, gradients by parameter, and the next random number."""
    head.train().zero_grad()
    torch.manual_seed(1)
    losses = head.loss(features, samples)
    torch.stack([loss.sum() for loss in losses.values()]).sum().backward()
    gradients = {name: p.grad for name, p in head.named_parameters() if p.grad is not None}
    return losses, gradients, torch.rand(1)


def assert_same_losses(
    theirs: Mask2FormerHead,
    ours: Mask2FormerHead,
    features: list[Tensor],
    samples: list[DetDataSample],
) -> None:
    """Same losses under the same names, same gradients, and the generator in the same state."""
    expected, expected_gradients, expected_number = run_loss(theirs, features, samples)
    losses, gradients, number = run_loss(ours, features, samples)
    assert list(losses) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value.reshape(()), atol=1e-5, rtol=1e-5)
    assert list(gradients) == list(expected_gradients)
    for name, value in expected_gradients.items():
        torch.testing.assert_close(gradients[name], value, atol=1e-5, rtol=1e-4)
    assert number == expected_number


def test_state_dict__both_ways():
    theirs = MODELS.build(head_config('mmdet.Mask2FormerHead'))
    ours = MODELS.build(head_config('mmext.FastMask2FormerHead'))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(
    ('size', 'counts'),
    [((64, 64), (3, 2)), ((40, 68), (2, 0)), ((64, 64), (0, 0)), ((32, 32), (9,)), ((4, 4), (1,))],
    ids=['two images', 'odd size, one empty', 'all empty', 'more objects than queries', '4 px'],
)
def test_loss__equals_mmdets(size, counts):
    theirs, ours = make_heads()
    features = make_features(*size, batch=len(counts))
    assert_same_losses(theirs, ours, features, make_samples(*size, counts))


def test_loss__average_of_processes_without_objects_of_ones_own(monkeypatch):
    asked = []  # a process that left it out would leave the others waiting
    monkeypatch.setattr(criterion, 'reduce_mean', lambda own: asked.append(own) or own)
    _, ours = make_heads()
    ours.loss(make_features(32, 32), make_samples(32, 32, (0, 0)))
    assert asked == [2]


def test_loss__ground_truth_in_pieces(monkeypatch):
    monkeypatch.setattr(points, 'MAX_CHUNK_PIXELS', 1)
    theirs, ours = make_heads()
    assert_same_losses(theirs, ours, make_features(32, 32), make_samples(32, 32, (3, 2)))


def test_loss__no_random_points():
    theirs, ours = make_heads(train_cfg=train_config() | dict(importance_sample_ratio=1.0))
    assert_same_losses(theirs, ours, make_features(32, 32), make_samples(32, 32, (3, 2)))


def test_loss__projected_levels_and_stuff():
    theirs, ours = make_heads(num_stuff=2, enforce_decoder_input_project=True)
    samples = make_samples(32, 32, (2, 0))
    for sample in samples:
        seg = torch.randint(6, (1, 8, 8)).repeat_interleave(4, 1).repeat_interleave(4, 2)
        seg[seg == 5] = 255
        sample.gt_sem_seg = PixelData(sem_seg=seg)
    assert_same_losses(theirs, ours, make_features(32, 32), samples)


def test_loss__masks_that_are_nowhere():
    theirs, ours = make_heads()
    with torch.no_grad():
        # All mask logits far below 0: every row of every attention mask is blocked.
        theirs.pixel_decoder.mask_feature.bias.fill_(-100)
        theirs.mask_embed[-1].weight.fill_(0)
        theirs.mask_embed[-1].bias.fill_(1)
    ours.load_state_dict(theirs.state_dict())
    features = make_features(32, 32)
    assert theirs(features, [])[1][-1].max() < 0
    assert_same_losses(theirs, ours, features, make_samples(32, 32, (3, 2)))


def test_loss__same_matches():
    theirs, ours = make_heads()
    expected, found = [], []

    def record_theirs(assign: Callable) -> Callable:
        def assign_and_record(**inputs: object) -> object:
            result = assign(**inputs)
            query = (result.gt_inds > 0).nonzero()[:, 0]
            expected.append(torch.stack([query, result.gt_inds[query] - 1]))
            return result

        return assign_and_record

    def record_ours(*inputs: object) -> object:
        pairs, generators = matcher(*inputs)
        found.extend(own[:, output] for output in range(5) for own in pairs)
        return pairs, generators

    matcher = ours.criterion.matcher
    theirs.assigner.assign = record_theirs(theirs.assigner.assign)
    ours.criterion.matcher = record_ours
    features, samples = make_features(64, 64), make_samples(64, 64, (5, 3))
    for head in (theirs, ours):
        torch.manual_seed(1)
        head.loss(features, samples)
    assert len(found) == 10  # the start and 4 layers, two images
    for own, other in zip(found, expected, strict=True):
        assert own.tolist() == other.tolist()


def test_loss__one_transfer_to_the_host(monkeypatch):
    calls = []
    plain = Tensor.cpu
    monkeypatch.setattr(Tensor, 'cpu', lambda self: calls.append(1) or plain(self))
    _, ours = make_heads()
    ours.loss(make_features(32, 32), make_samples(32, 32, (3, 2)))
    assert len(calls) == 1


def test_loss__bfloat16_is_float32_behind_the_network():
    _, ours = make_heads()
    with torch.autocast('cpu', torch.bfloat16):
        losses = ours.loss(make_features(32, 32), make_samples(32, 32, (3, 2)))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize('size', [(64, 64), (40, 68), (4, 4)], ids=str)
def test_forward__equals_mmdets(size):
    theirs, ours = make_heads()
    features = make_features(*size)
    for training in (True, False):
        with torch.no_grad():
            expected = theirs.train(training)(features, [])
            found = ours.train(training)(features, [])
        outputs = slice(None) if training else slice(-1, None)  # in evaluation the last alone
        for own, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own, other[outputs], atol=1e-4, rtol=1e-4)


def test_forward__dropout_is_at_work():
    layer = head_config('').transformer_decoder.layer_cfg
    layer.cross_attn_cfg = attention_config(16) | dict(dropout=0.5)
    decoder = dict(num_layers=2, layer_cfg=layer, return_intermediate=True)
    head = MODELS.build(head_config('mmext.FastMask2FormerHead', transformer_decoder=decoder))
    features = make_features(32, 32)
    first, second = (head.train()(features, [])[0][-1] for _ in range(2))
    assert not first.equal(second)
    first, second = (head.eval()(features, [])[0][-1] for _ in range(2))
    assert first.equal(second)


def test_predict__equals_mmdets():
    theirs, ours = (head.eval() for head in make_heads())
    features, samples = make_features(40, 68), make_samples(40, 68, (1, 1))
    with torch.no_grad():
        expected, found = theirs.predict(features, samples), ours.predict(features, samples)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


def test_loss__broken_weights_do_not_crash_and_are_reported_once(recwarn):
    _, ours = make_heads()
    nn.init.constant_(ours.mask_embed[-1].bias, float('nan'))
    features, samples = make_features(32, 32), make_samples(32, 32, (0, 2))
    for _ in range(2):
        assert ours.loss(features, samples)['loss_mask'].isnan()
    (message,) = [str(w.message) for w in recwarn if 'matching costs' in str(w.message)]
    assert 'output 0 of 5 and image 1' in message
    assert 'not finite: the mask embeddings, first' in message


@pytest.mark.parametrize('size', [(5, 7), (1, 1)], ids=str)
@pytest.mark.parametrize('normalize', [True, False])
def test_encode_positions__equals_mmdets(size, normalize):
    encoding = SinePositionalEncoding(4, normalize=normalize)
    expected = encoding(torch.zeros(2, *size, dtype=torch.bool)).flatten(2).transpose(1, 2)
    found = encode_positions(encoding, torch.zeros(2, 3, *size))
    assert found.equal(expected[:1])


def test_choose_own__takes_mmdets_points():
    masks = torch.randn(3, 8, 8)
    torch.manual_seed(1)
    expected = get_uncertain_point_coords_with_randomness(masks[:, None], None, 40, 3.0, 0.75)
    torch.manual_seed(1)
    rule = PointRule(40, oversample_ratio=3.0, importance_sample_ratio=0.75)
    grid = rule.choose_own(masks, rule.skip_own(3, masks.device))
    for own, other in zip(grid, expected * 2 - 1, strict=True):
        assert sorted(own.tolist()) == sorted(other.tolist())


@pytest.mark.parametrize('device', ['mps', 'cuda:1', 'xpu:0'])
def test_random_state__of_any_device(device, monkeypatch):
    asked = []
    # What torch.mps has takes no device, that of the others does.
    own = SimpleNamespace(get_rng_state=lambda *where: asked.append(where) or 'state')
    monkeypatch.setattr(torch, 'mps', own)
    monkeypatch.setattr(torch, 'get_device_module', lambda where: own)
    assert points._random_state(torch.device(device)) == 'state'
    assert asked == [() if device == 'mps' else (torch.device(device),)]


def test_loss__no_masks():
    _, ours = make_heads()
    samples = make_samples(32, 32, (1,))
    del samples[0].gt_instances.masks
    with pytest.raises(ValueError, match=r'got ground truth without masks.*with_mask=True'):
        ours.loss(make_features(32, 32, batch=1), samples)


def test_loss__masks_of_another_size():
    _, ours = make_heads(num_stuff=1)
    samples = make_samples(32, 30, (1,))
    samples[0].gt_sem_seg = PixelData(sem_seg=torch.full((1, 32, 32), 3))
    samples[0].set_metainfo(dict(batch_input_shape=(32, 32)))
    with pytest.raises(
        ValueError, match=r'got masks of \(32, 30\).*expected \(32, 32\).*pad_mask=True'
    ):
        ours.loss(make_features(32, 32, batch=1), samples)


def test_loss__no_train_cfg():
    head = MODELS.build(head_config('mmext.FastMask2FormerHead', train_cfg=None))
    with pytest.raises(ValueError, match='got no train_cfg'):
        head.loss(make_features(32, 32, batch=1), make_samples(32, 32, (1,)))


MISTAKES = [
    (
        dict(
            train_cfg=train_config()
            | dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5))
        ),
        'got train_cfg.assigner=MaxIoUAssigner, expected HungarianAssigner',
    ),
    (dict(train_cfg=train_config(0)), 'num_points=0'),
    (
        dict(loss_cls=dict(type='CrossEntropyLoss', class_weight=[1.0])),
        'with 1 class weights, expected 4',
    ),
    *(
        (
            dict(
                train_cfg=train_config()
                | dict(assigner=dict(type='HungarianAssigner', match_costs=[cost]))
            ),
            message,
        )
        for cost, message in (
            (dict(type='FocalLossCost'), 'got the match cost FocalLossCost'),
            (dict(type='DiceCost', pred_act=False), r'got DiceCost\(pred_act=False'),
            (dict(type='CrossEntropyLossCost', use_sigmoid=False), 'expected True'),
        )
    ),
]


@pytest.mark.parametrize(
    ('changes', 'message'),
    MISTAKES,
    ids=['assigner', 'points', 'class weights', 'cost', 'Dice', 'cross entropy'],
)
def test_init__mistakes(changes, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(head_config('mmext.FastMask2FormerHead', **changes))


def test_init__attention_that_is_not_known():
    config = head_config('mmext.FastMask2FormerHead')
    config.transformer_decoder.layer_cfg.cross_attn_cfg = attention_config(16, add_zero_attn=True)
    with pytest.raises(ValueError, match=r'layers\.0\.cross_attn\.attn.*add_zero_attn'):
        MODELS.build(config)
