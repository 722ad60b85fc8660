"""Options of `Segment` from the config line to what comes out: levels, bins, strides, caps, box expansion.

Raw outputs are painted from the truth, in every cell inside an object: then losses vanish and predictions are the
truth, or one of them means another place or size.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional

from mmext.models.yolo.assembly import OutputFrame
from mmext.models.yolo.head import Segment
from mmext.models.yolo.outputs import SegmentOutputs
from mmext.registry import MODELS
from tests.models.yolo_models import head_config, instances

INPUT = (64, 96)
STOCK = (8, 16, 32)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build_head(strides: Sequence[int] = STOCK, **settings: object) -> Segment:
    test_cfg = dict(score_thr=0.5, multi_label=False)
    return MODELS.build(
        head_config(
            **dict(in_channels=[8] * len(strides), strides=strides, test_cfg=test_cfg) | settings
        )
    )


def distance_logits(distances: Tensor, reg_max: int) -> Tensor:
    """Logits (R, ...) of a distribution over two neighbouring bins whose mean is a distance in cells."""
    distances = distances.clamp(0, reg_max - 1)
    bins = torch.arange(reg_max).view(-1, *[1] * distances.ndim)
    return (1 - (bins - distances).abs()).clamp(min=1e-9).log()


def paint(head: Segment, truth: InstanceData, proto_stride: int = 4) -> SegmentOutputs:
    """Raw outputs of one 64 x 96 image that say what the truth is, with prototypes at any stride."""
    levels: list[list[Tensor]] = [[], [], []]
    for stride in head.strides:
        rows, columns = (-(-side // stride) for side in INPUT)
        scores = torch.full((1, head.num_classes, rows, columns), -8.0)
        dists = torch.zeros(1, 4, head.reg_max, rows, columns)
        coeffs = torch.zeros(1, head.num_prototypes, rows, columns)
        y, x = torch.meshgrid(
            (torch.arange(rows) + 0.5) * stride,
            (torch.arange(columns) + 0.5) * stride,
            indexing='ij',
        )
        for k, (x1, y1, x2, y2) in enumerate(truth.bboxes):
            inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
            sides = torch.stack([x - x1, y - y1, x2 - x, y2 - y]) / stride
            logits = distance_logits(sides, head.reg_max).transpose(0, 1)
            dists[0, :, :, inside] = logits[:, :, inside]
            # A box that the bins cannot hold is not sure of itself.
            fits = sides.amax(0) <= head.reg_max - 1
            scores[0, truth.labels[k], inside] = 2.0
            scores[0, truth.labels[k], inside & fits] = 8.0
            coeffs[0, k, inside] = 1.0
        for level, values in zip(levels, (scores, dists.flatten(1, 2), coeffs), strict=True):
            level.append(values.requires_grad_())
    share = functional.avg_pool2d(torch.from_numpy(truth.masks.to_ndarray()).float(), proto_stride)
    prototypes = torch.zeros(1, head.num_prototypes, *share.shape[1:])
    prototypes[0, : len(share)] = 8 * share.clamp(0.01, 0.99).logit()
    return SegmentOutputs(*levels, prototypes.requires_grad_())


def predict(head: Segment, outputs: SegmentOutputs) -> InstanceData:
    """Objects of the image, in the order of their labels, then of their scores."""
    with torch.no_grad():
        (found,) = head.predict_by_feat(*outputs, [dict(img_shape=INPUT)])
    return found[found.labels.argsort(stable=True)]


def mask_iou(masks: Tensor, truth: InstanceData) -> list[float]:
    """Overlap of each mask (n, H, W) with the truth of the same index."""
    expected = torch.from_numpy(truth.masks.to_ndarray()).bool()
    return ((masks & expected).sum((1, 2)) / (masks | expected).sum((1, 2))).tolist()


def two_ellipses() -> InstanceData:
    return instances([[6.0, 10.0, 38.0, 50.0], [48.0, 20.0, 90.0, 44.0]], [0, 1], *INPUT)


def points(mask_stride: int) -> dict:
    return dict(loss_mask=dict(type='mmext.PointMaskLoss', mask_stride=mask_stride))


def dense(mask_stride: int) -> dict:
    return dict(loss_mask=dict(type='mmext.DenseMaskLoss', mask_stride=mask_stride))


P2, P6, ALL = (4, 8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32, 64)
PLACES = {
    'stock': (4, dict()),
    'p2-proto_2': (2, dict(strides=P2)),
    'p2-proto_4': (4, dict(strides=P2)),
    'p2-proto_2-points': (2, dict(strides=P2) | points(1)),
    'p6': (4, dict(strides=P6)),
    'p2-p6': (2, dict(strides=ALL)),
    'reg_max_8': (4, dict(reg_max=8)),
    'reg_max_24': (4, dict(reg_max=24)),
    'mask_stride_1': (4, dense(1)),
    'mask_stride_2': (4, dense(2)),
    'mask_stride_2-points': (4, points(2)),
    'mask_stride_8-proto_2': (2, dense(8)),
}


@pytest.mark.parametrize(('proto_stride', 'settings'), PLACES.values(), ids=PLACES)
def test_predict__painted_objects_come_out_where_they_are(
    proto_stride: int, settings: dict
) -> None:
    head, truth = build_head(**settings), two_ellipses()
    found = predict(head, paint(head, truth, proto_stride))
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.bboxes, truth.bboxes, atol=0.01, rtol=0)
    assert min(mask_iou(found.masks, truth)) > 0.95


@pytest.mark.parametrize(('proto_stride', 'settings'), PLACES.values(), ids=PLACES)
def test_loss__is_lowest_where_the_objects_are(proto_stride: int, settings: dict) -> None:
    head, truth = build_head(**settings), two_ellipses()
    outputs = paint(head, truth, proto_stride)

    def mask_loss(rows: int, columns: int) -> float:
        """With the prototypes moved by some pixels of the input."""
        shift = (rows // proto_stride, columns // proto_stride)
        moved = outputs._replace(prototypes=outputs.prototypes.roll(shift, dims=(2, 3)))
        return float(head.loss_by_feat(*moved, [truth], [{}])['loss_mask'].detach())

    losses = head.loss_by_feat(*outputs, [truth], [{}])
    assert losses['loss_bbox'] < 0.01
    moves = ((4, 0), (-4, 0), (0, 4), (0, -4))
    assert 2 * losses['loss_mask'] < min(mask_loss(*move) for move in moves)


# -------------------------------------------------------------------------- objects longer than 30 strides


@pytest.mark.parametrize(
    ('settings', 'is_held'),
    [
        (dict(strides=STOCK, reg_max=2), False),
        (dict(strides=P6, reg_max=2), True),
        (dict(strides=STOCK, reg_max=4), True),
    ],
    ids=['cut', 'held-by-p6', 'held-by-reg_max'],
)
def test_long_object__is_cut_unless_p6_or_reg_max_hold_it(settings: dict, is_held: bool) -> None:
    head, truth = build_head(**settings), instances([[3.0, 10.0, 93.0, 50.0]], [0], *INPUT)
    found = predict(head, paint(head, truth))
    if is_held:
        torch.testing.assert_close(found.bboxes[:1], truth.bboxes, atol=0.01, rtol=0)
    else:
        assert (found.bboxes[:, 2] - found.bboxes[:, 0]).max() <= 64  # 2 (2 - 1) 32


@pytest.mark.parametrize('reg_max', [2, 5, 16, 20])
def test_reg_max__is_the_number_of_bins_of_each_side(reg_max: int) -> None:
    head = build_head(reg_max=reg_max)
    outputs = head([torch.rand(1, 8, 64 // s, 96 // s) for s in STOCK])
    assert {dists.shape[1] for dists in outputs.bbox_dists} == {4 * reg_max}
    # Certain of the last bin: reg_max - 1 cells to each side, of every prior.
    for dists in outputs.bbox_dists:
        dists.data = torch.zeros_like(dists).unflatten(1, (4, reg_max)).flatten(1, 2)
        dists.data[:, reg_max - 1 :: reg_max] = 100.0
    bboxes = head.decode(outputs).bboxes[0]
    strides = torch.tensor(STOCK).repeat_interleave(torch.tensor([96, 24, 6]))
    sides = bboxes[:, 2:] - bboxes[:, :2]
    expected = (2 * (reg_max - 1) * strides).float()[:, None].expand(-1, 2)
    torch.testing.assert_close(sides, expected)


# ----------------------------------------------------------------------------------------- mask_stride


def thin_line() -> InstanceData:
    """Two pixels high and 80 long, on no grid of 4."""
    masks = np.zeros((1, *INPUT), dtype=np.uint8)
    masks[0, 31:33, 8:88] = 1
    bboxes = torch.tensor([[8.0, 24.0, 88.0, 40.0]])
    return InstanceData(bboxes=bboxes, labels=torch.tensor([0]), masks=BitmapMasks(masks, *INPUT))


@pytest.mark.parametrize('option', [dense, points])
@pytest.mark.parametrize(('mask_stride', 'is_kept'), [(1, True), (2, True), (4, False), (8, False)])
def test_mask_stride__decides_whether_a_line_of_two_pixels_is_learnt(
    mask_stride: int, is_kept: bool, option: Callable[[int], dict]
) -> None:
    head, truth = build_head(**option(mask_stride)), thin_line()
    line = paint(head, truth, proto_stride=2)
    nothing = line._replace(prototypes=torch.full_like(line.prototypes, -20.0))
    losses = [head.loss_by_feat(*o, [truth], [{}])['loss_mask'] for o in (line, nothing)]
    assert (losses[0] < losses[1]) == is_kept


@pytest.mark.parametrize('mask_loss', ['DenseMaskLoss', 'PointMaskLoss'])
@pytest.mark.parametrize('stride', [1, 2, 4, 8])
def test_mask_stride__is_that_of_the_masks_in_the_loss(
    mask_loss: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = build_head(loss_mask=dict(type=f'mmext.{mask_loss}', mask_stride=stride))
    seen = []
    forward = head.criterion.loss_mask.forward
    monkeypatch.setattr(
        head.criterion.loss_mask, 'forward', lambda p, own: seen.append(own) or forward(p, own)
    )
    truth = two_ellipses()
    head.loss_by_feat(*paint(head, truth), [truth], [{}])
    mean = functional.avg_pool2d(torch.from_numpy(truth.masks.to_ndarray()).double(), stride)
    assert torch.equal(seen[0].masks.bool(), mean >= 0.5)


# ---------------------------------------------------------------------------------------- max_positives


@pytest.mark.parametrize('mask_loss', ['DenseMaskLoss', 'PointMaskLoss'])
@pytest.mark.parametrize(
    ('max_positives', 'expected'),
    [(None, 20), (5, 5), (1, 2)],
    ids=['all', 'capped', 'one-for-each-object'],
)
def test_max_positives__is_the_number_of_priors_whose_masks_learn(
    max_positives: int | None, expected: int, mask_loss: str
) -> None:
    head = build_head(loss_mask=dict(type=f'mmext.{mask_loss}', max_positives=max_positives))
    truth = two_ellipses()
    outputs = paint(head, truth)
    losses = head.loss_by_feat(*outputs, [truth], [{}])

    def count_learning(loss: Tensor, levels: Sequence[Tensor]) -> int:
        gradients = torch.autograd.grad(loss, levels, retain_graph=True)
        return sum(int(gradient.any(dim=1).sum()) for gradient in gradients)

    assert count_learning(losses['loss_mask'], outputs.mask_coeffs) == expected
    # The cap is on the masks alone: each of the two objects keeps its ten priors for the other terms.
    assert count_learning(losses['loss_dfl'], outputs.bbox_dists) == 20


# ------------------------------------------------------------------------------------- mask_box_expand


@pytest.mark.parametrize(
    ('expand', 'expected'),
    [
        (0.0, [[10.0, 20.0, 30.0, 28.0], [0.0, 0.0, 8.0, 8.0]]),
        (0.5, [[5.0, 18.0, 35.0, 30.0], [0.0, 0.0, 10.0, 10.0]]),
    ],
    ids=['off', 'half'],
)
def test_from_input__longer_about_the_centre_and_clipped(expand: float, expected: list) -> None:
    bboxes = torch.tensor([[10.0, 20.0, 30.0, 28.0], [-2.0, 0.0, 8.0, 8.0]])
    longer = OutputFrame(INPUT, INPUT).from_input(bboxes, expand)
    expected_boxes = torch.tensor(expected)
    if expand:
        expected_boxes[1, 2] = 10.5  # the side is 10 long, 2 of it outside
    assert torch.equal(longer, expected_boxes)


def test_from_input__no_expansion_changes_no_bit() -> None:
    bboxes = 100 * torch.rand(1000, 4) - 20
    plain = torch.stack([bboxes[:, i].clamp(0, INPUT[(i + 1) % 2]) for i in range(4)], dim=1)
    assert torch.equal(OutputFrame(INPUT, INPUT).from_input(bboxes), plain)
    assert torch.equal(OutputFrame(INPUT, INPUT).from_input(bboxes, 0.0), plain)


@pytest.mark.parametrize(
    ('expand', 'mask_box'),
    [(0.0, (12, 12, 36, 28)), (0.5, (6, 8, 42, 32)), (3.0, (0, 0, 72, 52))],
    ids=['off', 'half', 'to-the-border'],
)
def test_mask_box_expand__crops_masks_by_longer_boxes(
    expand: float, mask_box: tuple[int, ...]
) -> None:
    head = build_head(test_cfg=dict(score_thr=0.5, multi_label=False, mask_box_expand=expand))
    truth = instances([[12.0, 12.0, 36.0, 28.0]], [1], *INPUT)
    # As far as its prototype goes, every pixel of the image belongs to the object.
    outputs = paint(head, truth)
    outputs = outputs._replace(prototypes=torch.full_like(outputs.prototypes, 20.0))
    found = predict(head, outputs)
    torch.testing.assert_close(found.bboxes, truth.bboxes, atol=1e-3, rtol=0)
    x1, y1, x2, y2 = mask_box
    expected = torch.zeros(1, *INPUT, dtype=torch.bool)
    expected[0, y1:y2, x1:x2] = True
    assert torch.equal(found.masks, expected)


def test_mask_box_expand__below_zero() -> None:
    with pytest.raises(ValueError, match='mask_box_expand=-0.1'):
        build_head(test_cfg=dict(mask_box_expand=-0.1))
