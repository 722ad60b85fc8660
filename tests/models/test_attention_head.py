"""`SegmentAttention` as mmdet sees it: outputs with their names, losses from data samples, objects by mode."""

import logging
from collections.abc import Iterator, Sequence

import pytest
import torch
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from torch import Tensor

from mmext.models.yolo.attention_head import SegmentAttention, scale_gradient
from mmext.registry import MODELS
from tests.models.yolo_models import (
    LargestTensor,
    data_sample,
    features,
    head_config,
    instances,
)

INPUT = (64, 96)
NUM_CLASSES = 3
NUM_QUERIES = 6
NUM_LAYERS = 4
LEARNED = dict(decoder=dict(num_queries=NUM_QUERIES))
SEEDED = dict(
    num_seeds=NUM_QUERIES,
    decoder=dict(num_box_layers=1),
    criterion=dict(type='mmext.QueryCriterion', num_points=32, box_point_ratio=0.5),
)

every_start = pytest.mark.parametrize('start', [LEARNED, SEEDED], ids=['learned', 'seeded'])
every_mode = pytest.mark.parametrize(
    ('start', 'mode'),
    [(LEARNED, 'queries'), (LEARNED, 'matched'), (SEEDED, 'seeded'), (SEEDED, 'matched')],
    ids=['queries', 'matched', 'seeded', 'matched-seeds'],
)


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


def attention_config(
    num_classes: int = NUM_CLASSES,
    *,
    decoder: dict | None = None,
    det: dict | None = None,
    **settings: object,
) -> dict:
    """Config of a small `SegmentAttention`; `settings` overwrite."""
    segment = head_config(num_classes, **(dict(loss_scale='mean') | (det or {})))
    return dict(
        type='mmext.SegmentAttention',
        train_cfg=segment.pop('train_cfg'),
        test_cfg=segment.pop('test_cfg'),
        det=segment,
        decoder=dict(
            type='mmext.QueryMaskDecoder',
            embed_dims=16,
            num_heads=2,
            num_layers=NUM_LAYERS,
            feedforward_channels=32,
        )
        | (decoder or {}),
        criterion=dict(type='mmext.QueryCriterion', num_points=32),
    ) | dict(settings)


def build_head(*args: object, **settings: object) -> SegmentAttention:
    head = MODELS.build(attention_config(*args, **settings))
    head.init_weights()
    return head


def samples(
    *num_objects: int, size: tuple[int, int] = INPUT, classes: int = NUM_CLASSES
) -> list[DetDataSample]:
    """Images with some ellipses each, anywhere."""
    found = []
    for count in num_objects:
        corners = torch.rand(count, 2, 2).sort(dim=1).values
        corners[:, 1] = torch.maximum(corners[:, 1], corners[:, 0] + 0.1)
        bboxes = corners.flatten(1) * torch.tensor([size[1], size[0]] * 2)
        labels = torch.arange(count) % classes
        found.append(data_sample(instances(bboxes.tolist(), labels.tolist(), *size), *size))
    return found


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([loss.sum() for loss in losses.values()]).sum()


# Outputs -----------------------------------------------------------------------------------------------------


@every_start
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_forward__documented_keys_and_shapes(start, training):
    head = build_head(**start).train(training)
    outputs = head(features(*INPUT))
    assert outputs._fields == (
        'det',
        'pred_masks',
        'pred_classes',
        'query_embeddings',
        'intermediate_masks',
        'mask_features',
    )
    mask_size = INPUT[0] // 4, INPUT[1] // 4
    assert [tuple(level.shape[1:]) for level in outputs.det.cls_scores] == [
        (NUM_CLASSES, INPUT[0] // stride, INPUT[1] // stride) for stride in (8, 16, 32)
    ]
    assert outputs.pred_masks.shape == (2, NUM_QUERIES, *mask_size)
    assert outputs.pred_classes.shape == (2, NUM_QUERIES, NUM_CLASSES + 1)
    assert outputs.query_embeddings.shape == (2, NUM_QUERIES, 16)
    assert outputs.mask_features.shape == (2, 16, *mask_size)
    # Before the first layer and after each but the last.
    assert len(outputs.intermediate_masks) == (NUM_LAYERS if training else 0)
    assert all(masks.shape == outputs.pred_masks.shape for masks in outputs.intermediate_masks)


# Losses ------------------------------------------------------------------------------------------------------


@every_start
def test_loss__those_of_the_detections_and_of_every_output_of_the_decoder(start):
    head = build_head(**start)
    x, batch = features(*INPUT), samples(2, 3)
    losses = head.loss(x, batch)
    names = {'loss_cls', 'loss_bbox', 'loss_dfl', 'loss_mask'}
    kinds = ('loss_q_cls', 'loss_q_mask', 'loss_q_dice')
    prefixes = ['', *(f'd{i}.' for i in range(NUM_LAYERS))]
    assert set(losses) == names | {prefix + kind for prefix in prefixes for kind in kinds}
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    gts, _, metas = unpack_gt_instances(batch)
    alone = head.det.loss_by_feat(*head.det(x), gts, metas)
    for name in names:
        torch.testing.assert_close(losses[name], alone[name])


@every_start
def test_loss__weight_applies_to_the_queries_alone(start):
    x, batch = features(*INPUT), samples(2, 3)
    found = []
    for weight in (1.0, 0.25):
        torch.manual_seed(1)
        head = build_head(**start, query_loss_weight=weight)
        found.append(head.loss(x, batch))
    for name, loss in found[0].items():
        torch.testing.assert_close(found[1][name], loss * (0.25 if 'loss_q' in name else 1.0))


@every_start
def test_loss__gradient_of_the_queries_into_the_neck_is_scaled(start):
    gradients = {}
    for scale in (1.0, 0.25, 0.0):
        torch.manual_seed(1)
        head = build_head(**start, query_grad_scale=scale)
        x = [level.requires_grad_() for level in features(*INPUT)]
        losses = head.loss(x, samples(2, 3))
        queries = total({name: loss for name, loss in losses.items() if 'loss_q' in name})
        gradients[scale] = torch.autograd.grad(queries, x)
    for whole, part, none in zip(*gradients.values(), strict=True):
        assert whole.abs().sum() > 0
        torch.testing.assert_close(part, whole / 4)
        assert none.abs().sum() == 0


def test_scale_gradient__changes_no_value():
    x = torch.randn(1000) * torch.logspace(-30, 30, 1000)
    assert torch.equal(scale_gradient(x, 0.3), x)


@every_start
@pytest.mark.parametrize('counts', [(0, 0), (1, 0), (500, 3)], ids=['none', 'one', 'many'])
def test_loss__any_number_of_objects(start, counts):
    head = build_head(**start)
    loss = total(head.loss(features(*INPUT), samples(*counts)))
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@every_start
@pytest.mark.parametrize('size', [(32, 32), (32, 160), (224, 96)], ids=str)
def test_loss__any_size_and_one_class(start, size):
    # 21 priors at the least, so that seeds can be fewer than asked for.
    head = build_head(1, **start)
    loss = total(head.loss(features(*size), samples(2, 1, size=size, classes=1)))
    assert torch.isfinite(loss)
    (found, _) = head.eval().predict(features(*size), samples(1, 1, size=size, classes=1))
    assert torch.isfinite(found.scores).all() and found.masks.shape[1:] == size


def test_loss__every_object_teaches_as_many_queries_as_asked_for(monkeypatch):
    found = []
    for count in (1, 3):
        torch.manual_seed(1)
        head = build_head(num_seeds=20, seeds_per_object=count)
        forward = head.criterion.forward

        def spy(*args: object, pairs: list, forward=forward, **others: object) -> dict:
            found.append([gt.bincount(minlength=2) for _, gt in pairs])
            return forward(*args, pairs=pairs, **others)

        monkeypatch.setattr(head.criterion, 'forward', spy)
        head.loss(features(*INPUT), samples(2, 2))
    for one, three in zip(*found, strict=True):
        assert (one >= 1).all() and (three >= 3).all() and one.sum() < three.sum()


def test_loss__fewer_priors_than_seeds():
    head = build_head(num_seeds=30)
    loss = total(head.loss(features(32, 32), samples(2, 0, size=(32, 32))))
    loss.backward()
    assert torch.isfinite(loss)
    results = head.eval().predict(features(32, 32), samples(1, 1, size=(32, 32)))
    assert all(len(found.scores) <= 21 and torch.isfinite(found.scores).all() for found in results)


@pytest.mark.parametrize('is_seeded', [False, True], ids=['learned', 'seeded'])
def test_loss__makes_no_mask(is_seeded):
    size, queries = (256, 256), 100
    start = (
        dict(SEEDED, num_seeds=queries) if is_seeded else dict(decoder=dict(num_queries=queries))
    )
    head = build_head(**start, det=dict(loss_mask=dict(type='mmext.PointMaskLoss', num_points=16)))
    x, batch = features(*size), samples(3, 5, size=size)
    with LargestTensor() as of_loss:
        total(head.loss(x, batch)).backward()
    with LargestTensor() as of_forward:
        head(x)
    assert of_loss.numel < 2 * queries * (size[0] // 4) * (size[1] // 4) == of_forward.numel


@every_start
def test_autocast__bfloat16_stays_finite(start):
    head = build_head(**start)
    with torch.autocast('cpu', torch.bfloat16):
        losses = head.loss(features(*INPUT), samples(2, 4))
        found = head.eval().predict(features(*INPUT), samples(1, 1))
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    assert all(torch.isfinite(own.scores).all() for own in found)


@pytest.mark.slow
@every_start
def test_training__the_losses_of_the_queries_fall(start):
    head = build_head(**start)
    # The levels show what is to be found: the class of the object at each cell.
    batch = samples(2, 3)
    x = [level * 0.1 for level in features(*INPUT)]
    for level, stride in zip(x, (8, 16, 32), strict=True):
        for image, each in zip(level, batch, strict=True):
            gt = each.gt_instances
            masks = torch.from_numpy(gt.masks.masks)[
                :, stride // 2 :: stride, stride // 2 :: stride
            ]
            for index, mask in enumerate(masks):
                image[index] += 2 * mask
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    history: list[dict[str, float]] = []
    for _ in range(30):
        losses = head.loss(x, batch)
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in ('loss_q_cls', 'loss_q_mask', 'loss_q_dice'):
        first, last = (sum(step[name] for step in part) / 5 for part in (history[:5], history[-5:]))
        assert last < 0.9 * first, (name, first, last)


# Results -----------------------------------------------------------------------------------------------------


def predict(
    head: SegmentAttention, x: Sequence[Tensor], batch: list[DetDataSample], rescale: bool = True
) -> list[InstanceData]:
    head.eval()
    with torch.no_grad():
        return head.predict(x, batch, rescale=rescale)


@every_mode
@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
def test_predict__results_as_those_of_segment(start, mode, mask_format):
    test_cfg = dict(mode=mode, score_thr=0.0, max_per_img=5, mask_format=mask_format)
    head = build_head(**start, test_cfg=test_cfg)
    batch = samples(1, 1)
    for each in batch:
        each.set_metainfo(dict(ori_shape=(100, 150), scale_factor=(0.6, 0.6), img_shape=(60, 90)))
    for found in predict(head, features(*INPUT), batch):
        assert set(found.keys()) == {'bboxes', 'scores', 'labels', 'masks'}
        assert 0 < len(found) <= 5
        assert (found.scores.diff() <= 0).all() and found.labels.dtype == torch.int64
        assert (found.bboxes >= 0).all() and (found.bboxes <= torch.tensor([150, 100] * 2)).all()
        if mask_format == 'bitmap':
            assert found.masks.shape == (len(found), 100, 150) and found.masks.dtype == torch.bool
        else:
            assert [rle['size'] for rle in found.masks] == [[100, 150]] * len(found)


@every_mode
def test_predict__nothing_above_the_threshold(start, mode):
    head = build_head(**start, test_cfg=dict(mode=mode, score_thr=0.999))
    for found in predict(head, features(*INPUT), samples(1, 0)):
        assert len(found) == 0 and found.bboxes.shape == (0, 4)
        assert found.masks.shape == (0, *INPUT)


def test_predict__does_not_compute_detections_that_the_mode_does_not_use(monkeypatch):
    head = build_head(**LEARNED, test_cfg=dict(mode='queries'))
    expected = predict(head, features(*INPUT), samples(1, 1))
    monkeypatch.setattr(head.det, 'forward', None)
    torch.manual_seed(0)
    assert len(predict(head, features(*INPUT), samples(1, 1))) == len(expected)


def test_predict__seeded_boxes_are_those_of_the_detections():
    nms = dict(type='nms', iou_threshold=0.6)
    head = build_head(**SEEDED, test_cfg=dict(score_thr=0.0, nms=nms, multi_label=False))
    x = features(*INPUT)
    results = predict(head, x, samples(1, 1), rescale=False)
    gts, _, metas = unpack_gt_instances(samples(1, 1))
    detected = head.det.predict_by_feat(*head.det(x), metas)
    for found, own in zip(results, detected, strict=True):
        best = {tuple(box) for box in own.bboxes[:NUM_QUERIES].tolist()}
        assert 0 < len(found) <= NUM_QUERIES
        assert {tuple(box) for box in found.bboxes.tolist()} <= best


# Mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(det=dict(loss_scale='batch')), r"got det.loss_scale='batch', expected 'mean'"),
        (dict(query_grad_scale=1.5), r'got query_grad_scale=1.5'),
        (dict(seeds_per_object=0), r'seeds_per_object=0; expected .* at least 1'),
        (dict(num_seeds=5, decoder=dict(num_queries=5)), r'num_seeds=5 and decoder.num_queries=5'),
        (dict(decoder=dict(num_queries=0)), r'num_seeds=0 and decoder.num_queries=0'),
        (dict(test_cfg=dict(mode='seeded')), r"mode='seeded' for learned queries"),
        (dict(test_cfg=dict(score=0.1)), r"got \['score'\]"),
    ],
    ids=['summed-loss', 'scale', 'seeds', 'both-starts', 'no-start', 'mode', 'unknown-key'],
)
def test_config__mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head(**settings)
