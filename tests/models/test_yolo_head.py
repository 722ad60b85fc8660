"""`Segment` as mmdet sees it: losses from data samples, detections in image coordinates."""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.structures import DetDataSample
from mmdet.structures.mask import PolygonMasks, encode_mask_results
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from mmext.models.yolo import head as head_module
from mmext.models.yolo.head import Segment
from mmext.models.yolo.outputs import SegmentOutputs
from mmext.registry import MODELS
from tests.models.yolo_models import (
    CHANNELS,
    STRIDES,
    data_sample,
    features,
    head_config,
    instances,
)

INPUT = (64, 96)
NUM_CLASSES = 3
MASK_LOSSES = ('DenseMaskLoss', 'PointMaskLoss')


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without mmengine's line for every initialised parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)


def build_head(**settings: object) -> Segment:
    head = MODELS.build(head_config(**settings))
    head.init_weights()
    return head


def truth(*num_objects: int, size: tuple[int, int] = INPUT) -> list[InstanceData]:
    """Ground truth of a batch with up to three objects an image."""
    bboxes = [[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 80.0, 60.0], [50.0, 4.0, 60.0, 12.0]]
    return [instances(bboxes[:n], list(range(n)), *size) for n in num_objects]


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


# --------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize('version', ['v8', 'v11'])
def test_forward__named_raw_outputs(version: str) -> None:
    outputs = build_head(version=version)(features(*INPUT))
    cells = [(8, 12), (4, 6), (2, 3)]
    assert [tuple(x.shape) for x in outputs.cls_scores] == [(2, 3, *c) for c in cells]
    assert [tuple(x.shape) for x in outputs.bbox_dists] == [(2, 64, *c) for c in cells]
    assert [tuple(x.shape) for x in outputs.mask_coeffs] == [(2, 4, *c) for c in cells]
    assert outputs.prototypes.shape == (2, 4, 16, 24)


def test_init_weights__published_class_bias() -> None:
    head = build_head()
    biases = [branch[-1].bias[0].item() for branch in head.cls_branches]
    assert biases == pytest.approx([math.log(5 / 3 / (640 / s) ** 2) for s in STRIDES], rel=1e-5)


def test_init_weights__priors_of_class_and_box() -> None:
    head = build_head(class_prior=0.02, box_prior=2.0)
    for branch in head.cls_branches:
        assert branch[-1].bias.sigmoid().tolist() == pytest.approx([0.02] * 3)
    for branch in head.reg_branches:
        probability = branch[-1].bias.reshape(4, 16).softmax(1)
        assert (probability @ torch.arange(16.0)).tolist() == pytest.approx([2.0] * 4, rel=0.02)


# ---------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize('mask_loss', MASK_LOSSES)
@pytest.mark.parametrize('num_objects', [(3, 1), (0, 2), (0, 0)], ids=str)
def test_loss__finite_and_every_parameter_gets_a_gradient(
    num_objects: tuple[int, ...], mask_loss: str
) -> None:
    head = build_head(mask_loss=mask_loss)
    losses = head.loss_by_feat(*head(features(*INPUT)), truth(*num_objects), [{}] * 2)
    assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_dfl', 'loss_mask'}
    total(losses).backward()
    assert torch.isfinite(total(losses))
    assert [n for n, p in head.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert (losses['loss_bbox'] > 0) == (sum(num_objects) > 0)


@pytest.mark.parametrize('size', [(32, 32), (96, 160), (224, 32)], ids=str)
def test_loss__one_class_and_odd_sizes(size: tuple[int, int]) -> None:
    head = build_head(num_classes=1)
    gt = [instances([[4.0, 4.0, 28.0, 28.0]], [0], *size) for _ in range(2)]
    losses = head.loss_by_feat(*head(features(*size)), gt, [{}] * 2)
    assert torch.isfinite(total(losses))
    assert losses['loss_mask'] > 0


@pytest.mark.parametrize('mask_loss', MASK_LOSSES)
def test_loss__bfloat16_autocast_computes_in_float32(mask_loss: str) -> None:
    head, x = build_head(mask_loss=mask_loss), features(*INPUT)
    outputs = head(x)
    half = SegmentOutputs(*([y.bfloat16() for y in o] for o in outputs[:3]), outputs[3].bfloat16())
    torch.manual_seed(1)
    plain = head.loss_by_feat(*half, truth(2, 1), [{}] * 2)
    torch.manual_seed(1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = head.loss_by_feat(*half, truth(2, 1), [{}] * 2)
    assert all(loss.dtype == torch.float32 for loss in mixed.values())
    assert {k: v.item() for k, v in mixed.items()} == {k: v.item() for k, v in plain.items()}


@pytest.mark.parametrize(
    ('loss_scale', 'world_size', 'factor'), [('batch', 1, 2), ('batch', 3, 6), ('mean', 3, 1)]
)
def test_loss__scale(
    loss_scale: str, world_size: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = build_head(loss_scale=loss_scale)
    monkeypatch.setattr(head_module, 'get_world_size', lambda: world_size)
    outputs, gt = head(features(*INPUT)), truth(2, 1)
    flat = head_module.flatten_outputs(outputs)
    unscaled = head.criterion(flat, head._priors(outputs), head.collect_truth(gt, INPUT))
    scaled = head.loss_by_feat(*outputs, gt, [{}] * 2)
    for name, loss in scaled.items():
        assert loss.item() == pytest.approx(factor * unscaled[name].item(), rel=1e-5)


def test_loss__mask_term_is_a_mean_over_positives_times_the_images() -> None:
    head = build_head().eval()
    x = features(*INPUT, batch=1)
    once = head.loss_by_feat(*head(x), truth(3), [{}])['loss_mask']
    x_twice = [level.repeat(2, 1, 1, 1) for level in x]
    twice = head.loss_by_feat(*head(x_twice), truth(3, 3), [{}] * 2)['loss_mask']
    assert twice.item() == pytest.approx(2 * once.item(), rel=1e-4)


def test_loss__polygons_equal_their_bitmaps() -> None:
    head = build_head()
    outputs = head(features(*INPUT, batch=1))
    polygons = PolygonMasks([[np.array([8.0, 8.0, 40.0, 8.0, 30.0, 40.0])]], *INPUT)
    bboxes, labels = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1])
    values = [
        head.loss_by_feat(
            *outputs, [InstanceData(bboxes=bboxes, labels=labels, masks=masks)], [{}]
        )['loss_mask'].item()
        for masks in (polygons, polygons.to_bitmap())
    ]
    assert values[0] == values[1] > 0


def test_loss__max_positives_caps_what_the_mask_loss_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    loss_mask = dict(type='mmext.DenseMaskLoss', max_positives=4)
    head = build_head(loss_mask=loss_mask)
    seen = []
    forward = head.criterion.loss_mask.forward
    monkeypatch.setattr(
        head.criterion.loss_mask,
        'forward',
        lambda p, positives: seen.append(positives) or forward(p, positives),
    )
    losses = head.loss_by_feat(*head(features(*INPUT)), truth(3, 2), [{}] * 2)
    assert seen[0].num_per_image == [4, 4]
    assert set(seen[0].gt.tolist()) == {0, 1, 2, 3, 4}
    assert torch.isfinite(losses['loss_mask'])


def test_loss__an_object_longer_than_any_box_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    head = build_head(reg_max=4)  # the longest box is 2 * 3 * 32 = 192
    size = (64, 256)
    outputs = head(features(*size, batch=1))
    gt = [instances([[0.0, 8.0, 250.0, 40.0]], [0], *size)]
    messages: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', messages.append)
    for _ in range(2):
        head.loss_by_feat(*outputs, gt, [{}])
    assert len(messages) == 1
    assert '250 pixels' in messages[0]
    assert '192' in messages[0]


def test_loss__objects_that_fit_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    head, size = build_head(reg_max=4), (64, 256)
    messages: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', messages.append)
    gt = [instances([[0.0, 8.0, 190.0, 40.0]], [0], *size)]
    head.loss_by_feat(*head(features(*size, batch=1)), gt, [{}])
    assert messages == []


def test_loss__without_masks() -> None:
    head, gt = build_head(), truth(1, 1)
    del gt[1].masks
    with pytest.raises(ValueError, match='with_mask=True'):
        head.loss_by_feat(*head(features(*INPUT)), gt, [{}] * 2)


def test_loss__masks_of_another_size() -> None:
    head = build_head()
    with pytest.raises(ValueError, match=r'\(64, 64\).*\(64, 96\).*pad_mask=True'):
        head.loss_by_feat(*head(features(*INPUT)), truth(1, 1, size=(64, 64)), [{}] * 2)


def test_loss__without_train_cfg() -> None:
    head = build_head(train_cfg=None)
    with pytest.raises(ValueError, match='BatchTALAssigner'):
        head.loss_by_feat(*head(features(*INPUT)), truth(1, 1), [{}] * 2)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(version='v9'), 'v11'),
        (dict(loss_scale='sum'), "'batch', 'mean'"),
        (dict(strides=(8, 16)), 'in_channels=.* for 2 strides; give one per level'),
        (dict(in_channels=5), 'in_channels=5 for 3 strides; give one per level'),
        (dict(class_prior=0.0), 'class_prior=0.0'),
        (dict(box_prior=0.0), 'box_prior=0.0'),
        (dict(box_prior=9.0), 'at most 7.5'),
        (dict(loss_mask=dict(type='mmext.DenseMaskLoss', mask_stride=3)), 'mask_stride=3'),
        (dict(test_cfg=dict(score_threshold=0.1)), 'score_threshold.*score_thr'),
        (dict(test_cfg=dict(mask_format='png')), "'png'.*'rle'"),
    ],
    ids=[
        'version',
        'loss_scale',
        'strides',
        'in_channels',
        'class_prior',
        'box_prior-zero',
        'box_prior-large',
        'mask_stride',
        'test_cfg-key',
        'mask_format',
    ],
)
def test_segment__wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head(**settings)


# ----------------------------------------------------------------------------------------- predictions


class Painter:
    """Raw outputs of one 64 x 96 image in which chosen cells of stride 8 hold chosen objects.

    Prototype k is +20 left of column 12 k + 12 of its 24 columns, -20 right of it, so that coefficients
    (1, 0, ...) and (0, 1, ...) make masks that differ.
    """

    def __init__(self) -> None:
        self.scores = [
            torch.full((1, NUM_CLASSES, *cells), -20.0) for cells in ((8, 12), (4, 6), (2, 3))
        ]
        self.dists = [torch.zeros(1, 4, 16, *s.shape[-2:]) for s in self.scores]
        self.coeffs = [torch.zeros(1, 4, *s.shape[-2:]) for s in self.scores]
        self.prototypes = torch.full((1, 4, 16, 24), -20.0)
        self.prototypes[0, 0, :, :12] = 20.0
        self.prototypes[0, 1] = 20.0

    def add(
        self,
        row: int,
        column: int,
        *,
        logits: dict[int, float],
        sides: Sequence[int],
        prototype: int,
    ) -> None:
        """An object at a cell: class logits, distances (left, top, right, bottom) in cells, its prototype."""
        for label, logit in logits.items():
            self.scores[0][0, label, row, column] = logit
        for side, distance in enumerate(sides):
            self.dists[0][0, side, distance, row, column] = 100.0
        self.coeffs[0][0, prototype, row, column] = 1.0

    def outputs(self) -> SegmentOutputs:
        return SegmentOutputs(
            self.scores, [d.flatten(1, 2) for d in self.dists], self.coeffs, self.prototypes
        )


def predict(
    painter: Painter, rescale: bool = False, meta: dict | None = None, **test_cfg: object
) -> InstanceData:
    head = build_head(test_cfg=dict(score_thr=0.05) | test_cfg)
    metas = [dict(img_shape=INPUT) | (meta or {})]
    return head.predict_by_feat(*painter.outputs(), metas, rescale=rescale)[0]


def two_objects() -> Painter:
    painter = Painter()
    # Cell (3, 5) has its centre at (44, 28): box 28 .. 60 x 12 .. 52.
    painter.add(3, 5, logits={1: 2.0}, sides=(2, 2, 2, 3), prototype=0)
    # Cell (1, 1), centre (12, 12): box 4 .. 20 x 4 .. 20.
    painter.add(1, 1, logits={2: 3.0, 0: 1.0}, sides=(1, 1, 1, 1), prototype=1)
    return painter


def test_predict__boxes_scores_and_masks_of_painted_objects() -> None:
    found = predict(two_objects(), multi_label=False)
    assert found.labels.tolist() == [2, 1]
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-2))])
    torch.testing.assert_close(
        found.bboxes, torch.tensor([[4.0, 4.0, 20.0, 20.0], [28.0, 12.0, 60.0, 52.0]])
    )
    expected = torch.zeros(2, *INPUT, dtype=torch.bool)
    expected[0, 4:20, 4:20] = True
    expected[1, 12:52, 28:48] = True  # prototype 0 ends at column 12 of 24
    assert torch.equal(found.masks, expected)


def test_predict__multi_label_repeats_a_prior_with_its_own_mask() -> None:
    found = predict(two_objects(), multi_label=True)
    assert found.labels.tolist() == [2, 1, 0]
    assert torch.equal(found.bboxes[0], found.bboxes[2])
    assert torch.equal(found.masks[0], found.masks[2])
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
def test_predict__mask_box_expand_moves_where_masks_end_and_no_box(mask_format: str) -> None:
    settings = dict(multi_label=False, mask_format=mask_format)
    found = predict(two_objects(), mask_box_expand=0.5, **settings)
    assert torch.equal(found.bboxes, predict(two_objects(), **settings).bboxes)
    masks = found.masks
    if mask_format == 'rle':
        masks = torch.from_numpy(coco_mask.decode(masks).transpose(2, 0, 1)).bool()
    # Sides of 16, 16 and 32, 40 become 24, 24 and 48, 60 about their centres.
    expected = torch.zeros(2, *INPUT, dtype=torch.bool)
    expected[0, 0:24, 0:24] = True
    expected[1, 2:62, 20:48] = True
    assert torch.equal(masks, expected)


def test_predict__original_image_behind_a_letterbox() -> None:
    # The original, 112 x 176, was halved to 56 x 88 and padded by 4 rows above and 8 columns at the left.
    meta = dict(ori_shape=(112, 176), scale_factor=(0.5, 0.5), pad_param=(4, 4, 8, 0))
    found = predict(two_objects(), rescale=True, meta=meta, multi_label=False)
    torch.testing.assert_close(
        found.bboxes, torch.tensor([[0.0, 0.0, 24.0, 32.0], [40.0, 16.0, 104.0, 96.0]])
    )
    expected = torch.zeros(2, 112, 176, dtype=torch.bool)
    expected[0, :32, :24] = True
    expected[1, 16:96, 40:80] = True
    assert torch.equal(found.masks, expected)


def test_predict__suppresses_within_a_class_only() -> None:
    painter = Painter()
    # Cells (3, 5) and (3, 6) predict the same box, 28 .. 60 x 12 .. 44.
    painter.add(3, 5, logits={0: 2.0}, sides=(2, 2, 2, 2), prototype=0)
    painter.add(3, 6, logits={0: 1.0, 1: 0.5}, sides=(3, 2, 1, 2), prototype=1)
    found = predict(painter)
    assert found.labels.tolist() == [0, 1]
    assert found.masks[0].sum() < found.masks[1].sum()  # the second comes from the other prior


def test_predict__soft_suppression_lowers_the_score_of_the_double() -> None:
    painter = Painter()
    # Cells (3, 5) and (3, 6) predict the same box: the second keeps exp(-1 / sigma) of its score.
    painter.add(3, 5, logits={0: 2.0}, sides=(2, 2, 2, 2), prototype=0)
    painter.add(3, 6, logits={0: 1.0}, sides=(3, 2, 1, 2), prototype=1)
    soft = dict(type='soft_nms', iou_threshold=0.5, sigma=0.5, method='gaussian', min_score=0.01)
    found = predict(painter, nms=soft)
    first, second = torch.tensor([2.0, 1.0]).sigmoid()
    expected = torch.stack([first, second * torch.tensor(-2.0).exp()])
    torch.testing.assert_close(found.scores, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ('test_cfg', 'labels'),
    [
        (dict(max_per_img=1), [2]),
        (dict(nms_pre=2), [2, 1]),
        (dict(score_thr=0.9), [2]),
        (dict(nms=dict(type='nms', iou_threshold=0.5, class_agnostic=True)), [2, 1]),
    ],
    ids=['max_per_img', 'nms_pre', 'score_thr', 'class_agnostic'],
)
def test_predict__test_cfg(test_cfg: dict, labels: list[int]) -> None:
    assert predict(two_objects(), **test_cfg).labels.tolist() == labels


def test_predict__rle_equals_bitmaps() -> None:
    bitmaps = predict(two_objects())
    rles = predict(two_objects(), mask_format='rle')
    assert np.array_equal(coco_mask.decode(rles.masks).transpose(2, 0, 1), bitmaps.masks.numpy())
    assert torch.equal(rles.scores, bitmaps.scores)


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
def test_predict__nothing_found(mask_format: str) -> None:
    found = predict(Painter(), mask_format=mask_format)
    assert found.bboxes.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)
    if mask_format == 'bitmap':
        assert found.masks.shape == (0, *INPUT)
    else:
        assert found.masks == []


def test_predict__bfloat16_autocast_keeps_exact_boxes() -> None:
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = predict(two_objects())
    assert torch.equal(mixed.bboxes, predict(two_objects()).bboxes)


def test_predict__a_batch_equals_its_images() -> None:
    head = build_head(test_cfg=dict(score_thr=0.0, max_per_img=20)).eval()
    x = features(*INPUT)
    metas = [dict(img_shape=INPUT), dict(img_shape=(60, 90))]
    with torch.no_grad():
        both = head.predict_by_feat(*head(x), metas)
        for i, meta in enumerate(metas):
            (single,) = head.predict_by_feat(*head([y[i : i + 1] for y in x]), [meta])
            torch.testing.assert_close(both[i].bboxes, single.bboxes, atol=1e-4, rtol=1e-4)
            assert torch.equal(both[i].labels, single.labels)
            assert (both[i].masks != single.masks).float().mean() < 1e-4


# -------------------------------------------------------------------------------------------- detector


@MODELS.register_module(name='TestPoolingLevels')
class PoolingLevels(BaseModule):
    """Three levels from an image by average pooling: a backbone that costs nothing."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            nn.functional.avg_pool2d(x, stride).repeat(1, channels // 3 + 1, 1, 1)[:, :channels]
            for stride, channels in zip(STRIDES, CHANNELS, strict=True)
        ]


@pytest.fixture
def detector() -> nn.Module:
    head = head_config()
    config = dict(
        type='mmdet.SingleStageDetector',
        backbone=dict(type='mmext.TestPoolingLevels'),
        train_cfg=head.pop('train_cfg'),
        test_cfg=head.pop('test_cfg'),
        bbox_head=head,
        data_preprocessor=dict(
            type='mmdet.DetDataPreprocessor',
            mean=[0, 0, 0],
            std=[255, 255, 255],
            bgr_to_rgb=True,
            pad_mask=True,
            pad_size_divisor=32,
        ),
    )
    return MODELS.build(config)


def batch(detector: nn.Module, training: bool) -> dict:
    """Two images of 60 x 90 (which are padded to 64 x 96), one with two objects, one without."""
    size = (60, 90)
    inputs = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for _ in range(2)]
    bboxes = [[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 80.0, 60.0]]
    samples = [data_sample(instances(bboxes[:n], [0, 1][:n], *size), *size) for n in (2, 0)]
    return detector.data_preprocessor(dict(inputs=inputs, data_samples=samples), training)


def test_detector__three_modes(detector: nn.Module) -> None:
    losses = detector(**batch(detector, training=True), mode='loss')
    assert torch.isfinite(total(losses))
    detector.eval()
    data = batch(detector, training=False)
    with torch.no_grad():
        results = detector(**data, mode='predict')
        raw = detector(data['inputs'], mode='tensor')
    for sample in results:
        found = sample.pred_instances
        assert found.masks.shape == (len(found), 60, 90)
        assert (found.bboxes[:, 2:] <= torch.tensor([90.0, 60.0])).all()
    assert raw.prototypes.shape == (2, 4, 16, 24)


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
def test_coco_metric__perfect_predictions_in_either_format(
    mask_format: str, tmp_path: Path
) -> None:
    head = build_head(test_cfg=dict(score_thr=0.5, mask_format=mask_format))
    (found,) = head.predict_by_feat(*two_objects().outputs(), [dict(img_shape=INPUT)])
    rles = found.masks if mask_format == 'rle' else encode_mask_results(found.masks.numpy())
    annotations = [
        dict(
            id=i + 1,
            image_id=0,
            category_id=int(found.labels[i]),
            bbox=[0, 0, 1, 1],  # the segm metric does not read it
            segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
            area=float(coco_mask.area(rle)),
            iscrowd=0,
        )
        for i, rle in enumerate(rles)
    ]
    classes = ('a', 'b', 'c')
    path = tmp_path / 'truth.json'
    path.write_text(
        json.dumps(
            dict(
                images=[dict(id=0, height=INPUT[0], width=INPUT[1], file_name='0.png')],
                annotations=annotations,
                categories=[dict(id=i, name=name) for i, name in enumerate(classes)],
            )
        )
    )
    metric = CocoMetric(ann_file=str(path), metric='segm')
    metric.dataset_meta = dict(classes=classes)
    sample = DetDataSample(metainfo=dict(img_id=0, ori_shape=INPUT), pred_instances=found)
    metric.process({}, [sample.to_dict()])
    assert metric.evaluate(size=1)['coco/segm_mAP'] == 1.0
