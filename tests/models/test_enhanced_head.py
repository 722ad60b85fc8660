"""`SegmentEnhanced` as mmdet sees it: what it shares with `Segment`, its refiner, its semantic branch."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.yolo.assembly import OutputFrame
from mmext.models.yolo.enhanced_head import EnhancedOutputs, SegmentEnhanced
from mmext.models.yolo.head import Segment
from mmext.models.yolo.postprocess import Detections, ImageDetections
from mmext.models.yolo.semantic import SemanticLoss, semantic_targets
from mmext.registry import MODELS
from tests.models.yolo_models import LargestTensor, features, head_config, instances

INPUT = (64, 96)
REFINER = dict(
    refiner=dict(
        type='mmext.MaskRefiner',
        context_channels=3,
        hidden_channels=6,
        train_size=14,
        test_size=14,
    ),
    loss_refine=dict(type='mmext.RefineLoss'),
)
SEMANTIC = dict(
    semantic=dict(type='mmext.SemanticBranch', hidden_channels=8),
    loss_sem=dict(type='mmext.SemanticLoss'),
)
STOCK_LOSSES = {'loss_cls', 'loss_bbox', 'loss_dfl', 'loss_mask'}


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def build(**settings: object) -> SegmentEnhanced:
    proto = dict(
        type='mmext.MultiScaleProto', common_channels=8, hidden_channels=12, hr_channels=10
    )
    config = head_config(type='mmext.SegmentEnhanced', proto=proto)
    return MODELS.build(config | settings)


def trained(head: SegmentEnhanced) -> SegmentEnhanced:
    """With a refiner that changes masks."""
    nn.init.normal_(head.refiner.delta.weight, std=3)
    return head


def truth(*num_objects: int, size: tuple[int, int] = INPUT) -> list[InstanceData]:
    bboxes = [[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 80.0, 60.0], [50.0, 4.0, 60.0, 12.0]]
    return [instances(bboxes[:n], list(range(n)), *size) for n in num_objects]


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def predict(head: Segment, x: list[Tensor], **meta: object) -> InstanceData:
    head.eval()
    metas = [dict(img_shape=INPUT, ori_shape=INPUT, scale_factor=(1.0, 1.0)) | meta]
    with torch.no_grad():
        return head.predict_by_feat(*head([y[:1] for y in x]), metas, rescale=True)[0]


# --------------------------------------------------------------------------------------------- network


def test_forward__extras_by_mode_and_branch() -> None:
    head, x = build(**REFINER, **SEMANTIC), features(*INPUT)
    outputs = head(x)
    assert {name: tuple(value.shape) for name, value in outputs.extras.items()} == {
        'context': (2, 3, 16, 24),
        'semantic': (2, 3, 8, 12),
    }
    assert list(head.eval()(x).extras) == ['context']
    assert build(**SEMANTIC).eval()(x).extras == {}


def test_head__without_branches_is_segment() -> None:
    proto = head_config()['proto']
    stock, head = MODELS.build(head_config()), build(proto=proto)
    head.load_state_dict(stock.state_dict())
    x, gt = features(*INPUT), truth(2, 1)
    losses = [each.loss_by_feat(*each(x), gt, [{}] * 2) for each in (stock, head)]
    assert set(losses[0]) == STOCK_LOSSES
    assert {k: v.item() for k, v in losses[0].items()} == {
        k: v.item() for k, v in losses[1].items()
    }
    found, expected = predict(head, x), predict(stock, x)
    assert len(found) > 20
    assert torch.equal(found.masks, expected.masks) and torch.equal(found.bboxes, expected.bboxes)


def test_head__a_checkpoint_of_segment_loads_as_it_is() -> None:
    stock = MODELS.build(head_config())
    head = build(proto=head_config()['proto'], **REFINER, **SEMANTIC)
    result = head.load_state_dict(stock.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert {key.split('.')[0] for key in result.missing_keys} == {'refiner', 'semantic'}


# ------------------------------------------------------------------------------------------ predictions


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
@pytest.mark.parametrize('meta', [{}, dict(ori_shape=(150, 220), scale_factor=(0.43, 0.42))])
def test_predict__fresh_refiner_is_bit_identical_to_none(mask_format: str, meta: dict) -> None:
    test_cfg = dict(score_thr=0.0, max_per_img=50, mask_format=mask_format)
    head, plain = build(test_cfg=test_cfg, **REFINER), build(test_cfg=test_cfg)
    plain.load_state_dict(
        {k: v for k, v in head.state_dict().items() if not k.startswith('refiner')}
    )
    x = features(*INPUT)
    found, expected = predict(head, x, **meta), predict(plain, x, **meta)
    assert len(found) == 50
    if mask_format == 'bitmap':
        assert expected.masks.any() and torch.equal(found.masks, expected.masks)
    else:
        assert found.masks == expected.masks


def test_predict__a_trained_refiner_changes_masks_alone() -> None:
    head, x = build(**REFINER), features(*INPUT)
    before = predict(head, x)
    after = predict(trained(head), x)
    for name in ('bboxes', 'scores', 'labels'):
        assert torch.equal(after[name], before[name])
    assert (after.masks != before.masks).any(dim=(1, 2)).float().mean() > 0.5


def test_predict__masks_equal_refined_full_frames() -> None:
    """Each mask against logits of the whole frame, to which grid_sample adds the delta of its region."""
    head, x = trained(build(**REFINER)), features(*INPUT)
    found = predict(head, x)
    with torch.no_grad():
        outputs = head([y[:1] for y in x])
        (detected,) = head.detect(EnhancedOutputs(*outputs))
        correction = head._correct(detected, outputs.extras['context'][0], INPUT)
    logits = torch.einsum('nk,khw->nhw', detected.coeffs, detected.prototypes)
    frames = functional.interpolate(logits[:, None], INPUT, mode='bilinear')[:, 0]
    columns, rows = torch.arange(INPUT[1]), torch.arange(INPUT[0])[:, None]
    for frame, delta, region, box, mask in zip(
        frames, *correction, found.bboxes, found.masks, strict=True
    ):
        across = 2 * (columns + 0.5 - region[0]) / (region[2] - region[0]) - 1
        down = 2 * (rows + 0.5 - region[1]) / (region[3] - region[1]) - 1
        grid = torch.stack(torch.broadcast_tensors(across, down), dim=-1)[None]
        added = functional.grid_sample(delta[None, None], grid, align_corners=False)[0, 0]
        inside = (columns >= box[0]) & (columns < box[2]) & (rows >= box[1]) & (rows < box[3])
        assert (((frame + added > 0) & inside) != mask).sum() <= 1  # a logit of 0 to rounding


def test_predict__rle_equals_bitmaps() -> None:
    head, x = trained(build(**REFINER)), features(*INPUT)
    bitmaps = predict(head, x)
    head.test_settings.mask_format = 'rle'
    decoded = coco_mask.decode(predict(head, x).masks).transpose(2, 0, 1)
    assert np.array_equal(decoded, bitmaps.masks.numpy())


def test_predict__nothing_found() -> None:
    head = build(test_cfg=dict(score_thr=0.999), **REFINER)
    found = predict(head, features(*INPUT))
    assert found.bboxes.shape == (0, 4)
    assert found.masks.shape == (0, *INPUT)


def test_predict__bfloat16_autocast_refines_in_float32() -> None:
    head, x = trained(build(**REFINER)).eval(), features(*INPUT)
    with torch.no_grad():
        outputs = head([y[:1] for y in x])
        metas = [dict(img_shape=INPUT)]
        plain = head.predict_by_feat(*outputs, metas)[0]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            mixed = head.predict_by_feat(*outputs, metas)[0]
    assert torch.equal(mixed.masks, plain.masks)


@pytest.mark.parametrize('expand', [0.0, 0.1, 0.8])
def test_predict__the_refiner_corrects_all_of_the_expanded_box(expand: float) -> None:
    head = build(test_cfg=dict(mask_box_expand=expand), **REFINER).eval()
    # Inside the image, over its left edge, all of it and more.
    bboxes = torch.tensor(
        [[30.0, 20.0, 50.0, 44.0], [-60.0, 10.0, 30.0, 50.0], [-9.0, -9.0, 120.0, 90.0]]
    )
    found = Detections(bboxes, torch.ones(3), torch.zeros(3).long(), torch.arange(3))
    detected = ImageDetections(found, torch.randn(3, 4), torch.randn(4, 16, 24))
    with torch.no_grad():
        regions = head._correct(detected, torch.randn(3, 16, 24), INPUT).bboxes
    crops = OutputFrame(INPUT, INPUT).from_input(bboxes, expand)
    assert (regions[:, :2] <= crops[:, :2] + 1e-4).all()
    assert (regions[:, 2:] >= crops[:, 2:] - 1e-4).all()
    # Never smaller than what the refiner learnt on.
    sides = regions[:, 2:] - regions[:, :2]
    inside = torch.tensor([[20.0, 24.0], [30.0, 40.0], [96.0, 64.0]])
    assert (sides >= 1.1 * inside - 1e-4).all()
    if expand <= 0.1:
        torch.testing.assert_close(sides[0], 1.1 * inside[0])


def test_predict__memory_of_500_objects_is_bounded() -> None:
    head = trained(build(test_cfg=dict(mask_format='rle'), **REFINER)).eval()
    frame = OutputFrame((320, 480), INPUT, 0.2, 0.2)
    corners = torch.rand(500, 2) * 50
    found = Detections(
        bboxes=torch.cat([corners, corners + 10], dim=1),
        scores=torch.ones(500),
        labels=torch.zeros(500, dtype=torch.long),
        prior=torch.arange(500),
    )
    detected = ImageDetections(found, torch.randn(500, 4), torch.randn(4, 16, 24))
    with torch.no_grad(), LargestTensor() as largest:
        correction = head._correct(detected, torch.randn(3, 16, 24), INPUT)
        masks = head.to_instances(detected, frame, correction).masks
    assert len(masks) == 500
    # All masks would be 77 million values, all inputs of the refiner 392 thousand. What it sees at a time is 2^15
    # cells, with four channels of input and six inside.
    assert largest.numel <= 2**15 * 6


# ---------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize('num_objects', [(3, 1), (0, 1), (0, 0)], ids=str)
def test_loss__finite_and_every_parameter_gets_a_gradient(num_objects: tuple[int, ...]) -> None:
    head = build(**REFINER, **SEMANTIC)
    losses = head.loss_by_feat(*head(features(*INPUT)), truth(*num_objects), [{}] * 2)
    assert set(losses) == STOCK_LOSSES | {'loss_refine', 'loss_sem'}
    total(losses).backward()
    assert torch.isfinite(total(losses))
    assert [n for n, p in head.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert (losses['loss_refine'] > 0) == (sum(num_objects) > 0)


@pytest.mark.parametrize('branch', [REFINER, SEMANTIC], ids=['refiner', 'semantic'])
def test_loss__the_other_losses_stay(branch: dict) -> None:
    head, plain = build(**branch), build()
    plain.load_state_dict(head.state_dict(), strict=False)
    x, gt = features(*INPUT), truth(2, 1)
    losses = head.loss_by_feat(*head(x), gt, [{}] * 2)
    expected = plain.loss_by_feat(*plain(x), gt, [{}] * 2)
    assert set(expected) == STOCK_LOSSES
    assert {name: losses[name].item() for name in expected} == {
        name: value.item() for name, value in expected.items()
    }


@pytest.mark.parametrize('size', [(32, 32), (96, 160), (224, 32)], ids=str)
def test_loss__one_class_and_odd_sizes(size: tuple[int, int]) -> None:
    head = build(num_classes=1, **REFINER, **SEMANTIC)
    gt = [instances([[4.0, 4.0, 28.0, 28.0]], [0], *size) for _ in range(2)]
    losses = head.loss_by_feat(*head(features(*size)), gt, [{}] * 2)
    assert torch.isfinite(total(losses))
    assert losses['loss_refine'] > 0 and losses['loss_sem'] > 0


def test_loss__bfloat16_autocast_computes_in_float32() -> None:
    head, x = trained(build(**REFINER, **SEMANTIC)), features(*INPUT)
    outputs, values = head(x), []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            losses = head.loss_by_feat(*outputs, truth(2, 1), [{}] * 2)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        values.append({name: loss.item() for name, loss in losses.items()})
    assert values[0] == values[1]


def test_loss__max_positives_caps_what_the_refiner_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    head = build(
        refiner=REFINER['refiner'], loss_refine=dict(type='mmext.RefineLoss', max_positives=4)
    )
    seen = []
    forward = head.refiner.forward
    monkeypatch.setattr(
        head.refiner, 'forward', lambda inputs: seen.append(inputs) or forward(inputs)
    )
    bboxes = np.random.default_rng(0).uniform(0, 60, (300, 2)).repeat(2, 0).reshape(300, 4)
    bboxes[:, 2:] += 16
    crowd = instances(bboxes.tolist(), [0] * 300, *INPUT)
    head.loss_by_feat(*head(features(*INPUT)), [crowd, *truth(1)], [{}] * 2)
    assert len(seen[0].coarse) == 8


@pytest.mark.parametrize('loss_scale', ['batch', 'mean'])
def test_loss__scale_holds_for_all(loss_scale: str) -> None:
    head = build(loss_scale=loss_scale, **SEMANTIC)
    outputs = head(features(*INPUT))
    losses = head.loss_by_feat(*outputs, truth(2, 1), [{}] * 2)
    target = semantic_targets(
        [torch.tensor([0, 1]), torch.tensor([0])],
        head.collect_truth(truth(2, 1), INPUT).masks,
        num_classes=3,
        size=(8, 12),
    )
    expected = SemanticLoss()(outputs.extras['semantic'], target)
    factor = 2 if loss_scale == 'batch' else 1
    assert losses['loss_sem'].item() == pytest.approx(factor * expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(refiner=REFINER['refiner']), 'refiner without loss_refine'),
        (dict(loss_refine=REFINER['loss_refine']), 'loss_refine without refiner'),
        (dict(semantic=SEMANTIC['semantic']), 'semantic without loss_sem'),
        (dict(loss_sem=SEMANTIC['loss_sem']), 'loss_sem without semantic'),
    ],
    ids=['refiner', 'loss_refine', 'semantic', 'loss_sem'],
)
def test_head__a_branch_and_its_loss_come_together(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**given)


# ----------------------------------------------------------------------------------------- semantic loss


def test_semantic_targets__equal_a_slow_loop() -> None:
    gt = truth(3, 0, 2)
    labels = [torch.tensor([1, 0, 1]), torch.zeros(0, dtype=torch.long), torch.tensor([2, 2])]
    masks = torch.cat([torch.from_numpy(own.masks.masks) for own in gt])
    target = semantic_targets(labels, masks, num_classes=3, size=(8, 12))
    expected = torch.zeros(3, 3, 8, 12)
    owner = [(image, int(label)) for image, own in enumerate(labels) for label in own]
    for (image, label), mask in zip(owner, masks, strict=True):
        for row in range(8):
            for column in range(12):
                cell = mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                part = float(cell.float().mean())
                expected[image, label, row, column] = max(
                    part, float(expected[image, label, row, column])
                )
    torch.testing.assert_close(target, expected)


def test_semantic_targets__no_objects() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    masks = torch.zeros(0, *INPUT, dtype=torch.uint8)
    target = semantic_targets([nothing] * 2, masks, num_classes=3, size=(8, 12))
    assert torch.equal(target, torch.zeros(2, 3, 8, 12))


def test_semantic_targets__masks_coarser_than_the_cells() -> None:
    masks = torch.zeros(1, 8, 12, dtype=torch.uint8)
    with pytest.raises(ValueError, match='12 pixels wide.*16 cells.*mask_stride'):
        semantic_targets([torch.tensor([0])], masks, num_classes=1, size=(12, 16))


def test_semantic_loss__by_hand() -> None:
    logits, targets = torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 0.5]], [[0.0, 0.0]]]])
    # Probability 1/2: intersections 0.75 and 0, sums 1 + 1.5 and 1 + 0, eps 1.
    dice = ((1 - 2.5 / 3.5) + (1 - 1 / 2)) / 2
    expected = 3.0 * (np.log(2) + dice) / 2
    assert SemanticLoss(3.0)(logits, targets).item() == pytest.approx(expected, rel=1e-5)
