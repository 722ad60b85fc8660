"""`Segment(nms_free=True)`: what the second set of branches learns from, and predictions without suppression."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.models.yolo import postprocess
from mmext.models.yolo.assigner import BatchTALAssigner, PaddedTruth
from mmext.models.yolo.head import Segment
from mmext.models.yolo.one_to_one import last_levels
from mmext.models.yolo.one_to_one_assigner import OneToOneAssigner, pair_greedily
from mmext.models.yolo.outputs import SegmentOutputs, flatten_outputs
from mmext.models.yolo.postprocess import TestSettings, select_detections
from mmext.registry import MODELS, TASK_UTILS
from mmext.structures.boxes import complete_iou
from tests.models.yolo_models import data_sample, features, head_config, instances
from tests.tiny import make_tiny_coco, tiny_segment_config

INPUT = (64, 96)
STOCK_LOSSES = {'loss_cls', 'loss_bbox', 'loss_dfl', 'loss_mask'}
LOSSES = {'loss_o2o_cls', 'loss_o2o_bbox', 'loss_o2o_dfl', 'loss_o2o_mask'}


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def build(**settings: object) -> Segment:
    return MODELS.build(head_config(**dict(nms_free=True) | settings))


def grown_apart(head: Segment) -> Segment:
    """With one-to-one branches that no longer equal the others."""
    with torch.no_grad():
        for parameter in head.one_to_one.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return head


def truth(*num_objects: int, size: tuple[int, int] = INPUT) -> list[InstanceData]:
    bboxes = [[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 80.0, 60.0], [50.0, 4.0, 60.0, 12.0]]
    return [instances(bboxes[:n], list(range(n)), *size) for n in num_objects]


def total(losses: dict[str, Tensor], names: set[str]) -> Tensor:
    return torch.stack([losses[name] for name in sorted(names)]).sum()


@pytest.fixture
def no_suppression(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError('boxes were suppressed')

    monkeypatch.setattr(postprocess, 'batched_nms', fail)


# --------------------------------------------------------------------------------------------- network


def test_head__only_the_second_set_is_new() -> None:
    stock, head = MODELS.build(head_config()).state_dict(), build().state_dict()
    added = set(head) - set(stock)
    assert list(stock) == [name for name in head if name not in added]
    branches = {name for name in stock if name.split('.')[0].endswith('_branches')}
    assert added == {f'one_to_one.{name}' for name in branches}


def test_head__the_second_set_starts_as_a_copy() -> None:
    head = build(class_prior=0.02, box_prior=2.0)
    head.init_weights()
    weights = head.state_dict()
    for name in [name for name in weights if name.startswith('one_to_one.')]:
        first = weights[name.removeprefix('one_to_one.')]
        assert torch.equal(weights[name], first) and weights[name].data_ptr() != first.data_ptr()
    for branch in head.one_to_one.cls_branches:
        assert branch[-1].bias.sigmoid().tolist() == pytest.approx([0.02] * 3)


def test_forward__both_sets_in_training_the_second_alone_in_eval() -> None:
    head, x = grown_apart(build(norm_cfg=None)), features(*INPUT)
    stock = MODELS.build(head_config(norm_cfg=None))
    stock.load_state_dict(head.state_dict(), strict=False)
    second = MODELS.build(head_config(norm_cfg=None))
    second.load_state_dict(stock.state_dict() | dict(head.one_to_one.state_dict()))
    training, prediction = head(x), head.eval()(x)
    for part in range(3):
        assert len(training[part]) == 6 and len(prediction[part]) == 3
        levels = zip(training[part], stock(x)[part] + second(x)[part], strict=True)
        assert all(torch.equal(level, expected) for level, expected in levels)
        levels = zip(prediction[part], second(x)[part], strict=True)
        assert all(torch.equal(level, expected) for level, expected in levels)


def test_forward__one_to_many_branches_do_not_run_in_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError('a branch of training ran')

    head = build().eval()
    for branches in (head.cls_branches, head.reg_branches, head.coeff_branches):
        for branch in branches:
            monkeypatch.setattr(branch, 'forward', fail)
    outputs = head(features(*INPUT))
    assert [level.shape[2:] for level in outputs.cls_scores] == [(8, 12), (4, 6), (2, 3)]


# ---------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize('mask_loss', ['DenseMaskLoss', 'PointMaskLoss'])
def test_loss__the_others_and_their_gradients_stay(mask_loss: str) -> None:
    head, stock = build(mask_loss=mask_loss), MODELS.build(head_config(mask_loss=mask_loss))
    stock.load_state_dict(head.state_dict(), strict=False)
    values, gradients = [], []
    for each in (head, stock):
        torch.manual_seed(0)
        x = [level.requires_grad_() for level in features(*INPUT)]
        losses = each.loss_by_feat(*each(x), truth(3, 1), [{}] * 2)
        total(losses, set(losses)).backward()
        values.append({name: losses[name].item() for name in STOCK_LOSSES})
        own = {n: p.grad for n, p in each.named_parameters() if not n.startswith('one_to_one.')}
        gradients.append(own | {f'level {i}': level.grad for i, level in enumerate(x)})
    assert values[0] == values[1]
    assert set(losses) == STOCK_LOSSES
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[1])


@pytest.mark.parametrize('num_objects', [(3, 1), (0, 2), (0, 0)], ids=str)
def test_loss__one_to_one_reaches_its_branches_alone(num_objects: tuple[int, ...]) -> None:
    head = build()
    x = [level.requires_grad_() for level in features(*INPUT)]
    losses = head.loss_by_feat(*head(x), truth(*num_objects), [{}] * 2)
    assert set(losses) == STOCK_LOSSES | LOSSES
    assert torch.isfinite(total(losses, STOCK_LOSSES | LOSSES))
    assert (losses['loss_o2o_mask'] > 0) == (losses['loss_o2o_bbox'] > 0) == (sum(num_objects) > 0)
    total(losses, LOSSES).backward()
    assert [level.grad for level in x] == [None] * 3
    learning = {name for name, p in head.named_parameters() if p.grad is not None}
    assert learning == {n for n, _ in head.named_parameters() if n.startswith('one_to_one.')}


def test_loss__is_the_criterion_with_one_prior_for_each_object() -> None:
    head = grown_apart(build(loss_scale='mean'))
    outputs, gt = head(features(*INPUT)), truth(2, 1)
    found = head.loss_by_feat(*outputs, gt, [{}] * 2)
    own = last_levels(outputs, 3)
    criterion = head.criterion.with_assigner(BatchTALAssigner(topk=1))
    expected = criterion(flatten_outputs(own), head._priors(own), head.collect_truth(gt, INPUT))
    for name, loss in expected.items():
        assert found[name.replace('loss', 'loss_o2o')].item() == pytest.approx(loss.item())
    assert found['loss_o2o_cls'].item() != pytest.approx(found['loss_cls'].item())


def test_loss__every_object_has_one_positive() -> None:
    head, size = build(), INPUT
    bboxes = [[8.0, 8.0, 40.0, 40.0]] * 3 + [[9.0, 8.0, 40.0, 41.0], [60.0, 30.0, 64.0, 33.0]]
    gt = [instances(bboxes, [0, 0, 1, 2, 1], *size), *truth(2)]
    outputs = last_levels(head(features(*size)), 3)
    positives = head.one_to_one.criterion.match(
        flatten_outputs(outputs), head._priors(outputs), head.collect_truth(gt, size)
    )
    assert sorted(positives.gt.tolist()) == list(range(7))
    assert len(set(zip(positives.image.tolist(), positives.prior.tolist(), strict=True))) == 7


@pytest.mark.parametrize('size', [(32, 32), (96, 160), (224, 32)], ids=str)
def test_loss__one_class_and_odd_sizes(size: tuple[int, int]) -> None:
    head = build(num_classes=1)
    gt = [instances([[4.0, 4.0, 28.0, 28.0]], [0], *size) for _ in range(2)]
    losses = head.loss_by_feat(*head(features(*size)), gt, [{}] * 2)
    assert all(torch.isfinite(losses[name]) and losses[name] > 0 for name in LOSSES)


def test_loss__bfloat16_autocast_computes_in_float32() -> None:
    head = build()
    outputs, values = head(features(*INPUT)), []
    half = SegmentOutputs(*([y.bfloat16() for y in o] for o in outputs[:3]), outputs[3].bfloat16())
    for enabled in (False, True):
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            losses = head.loss_by_feat(*half, truth(2, 1), [{}] * 2)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        values.append({name: loss.item() for name, loss in losses.items()})
    assert values[0] == values[1]


def test_loss__of_eval_outputs_is_an_error() -> None:
    head = build().eval()
    with pytest.raises(ValueError, match=r'eval mode.*nms_free=True.*train\(\)'):
        head.loss_by_feat(*head(features(*INPUT)), truth(1, 1), [{}] * 2)


@pytest.fixture
def other_assigner() -> Iterator[dict]:
    name = 'TestOtherAssigner'
    TASK_UTILS.register_module(name=name)(type(name, (), {}))
    yield dict(type=f'mmext.{name}')
    TASK_UTILS.module_dict.pop(name)


def test_head__an_assigner_that_cannot_be_made_one_to_one(other_assigner: dict) -> None:
    with pytest.raises(ValueError, match='TestOtherAssigner.*BatchTALAssigner'):
        build(train_cfg=dict(assigner=other_assigner))


# ------------------------------------------------------------------------------------------ assignment


def crowd(num_truths: int, num_equal: int) -> tuple[Tensor, Tensor, Tensor, PaddedTruth]:
    """Scores (2, 3, 16), boxes, priors on a grid of 4 x 4, and truths of which some are equal; one is padding."""
    y, x = torch.meshgrid(torch.arange(4) * 8.0 + 4, torch.arange(4) * 8.0 + 4, indexing='ij')
    priors = torch.stack([x, y], dim=-1).reshape(-1, 2)
    reach = torch.rand(2, 16, 4) * 12 + 2
    bboxes = torch.cat([priors - reach[..., :2], priors + reach[..., 2:]], dim=-1)
    corner = torch.rand(2, num_truths, 2) * 12
    gts = torch.cat([corner, corner + 10 + 8 * torch.rand(2, num_truths, 2)], dim=-1)
    gts[:, :num_equal] = gts[:, :1]
    labels = torch.randint(3, (2, num_truths))
    labels[:, :num_equal] = 0
    valid = torch.ones(2, num_truths, dtype=torch.bool)
    valid[1, -1] = False
    return torch.rand(2, 3, 16), bboxes, priors, PaddedTruth(labels, gts, valid)


def slow_pairs(
    scores: Tensor, bboxes: Tensor, priors: Tensor, truth: PaddedTruth
) -> dict[int, int]:
    """Ground truth of each prior of one image, from all pairs in the order of their alignment."""
    pairs = []
    for gt, (label, box, valid) in enumerate(zip(*truth, strict=True)):
        for prior, (x, y) in enumerate(priors.tolist()):
            if valid and box[0] < x < box[2] and box[1] < y < box[3]:
                overlap = complete_iou(bboxes[prior], box).clamp(min=0)
                alignment = float(scores[label, prior].pow(0.5) * overlap.pow(6))
                centre = ((box[:2] + box[2:]) / 2).tolist()
                far = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
                pairs.append((alignment if alignment > 0 else -far, -gt, prior))
    owner: dict[int, int] = {}
    for _, gt, prior in sorted(pairs, reverse=True):
        if prior not in owner and -gt not in owner.values():
            owner[prior] = -gt
    return owner


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('max_block_pairs', [2**21, 100], ids=['at-once', 'in-blocks'])
@pytest.mark.parametrize(
    ('num_truths', 'num_equal'), [(1, 1), (4, 1), (6, 3), (12, 2)], ids=['1', '4', '6', '12']
)
def test_assign__equals_a_slow_loop(
    num_truths: int, num_equal: int, max_block_pairs: int, seed: int
) -> None:
    torch.manual_seed(seed)
    scores, bboxes, priors, gts = crowd(num_truths, num_equal)
    base = BatchTALAssigner(topk=10, min_gt_side=0, max_block_pairs=max_block_pairs)
    assignment = OneToOneAssigner.like(base).assign(scores, bboxes, priors=priors, truth=gts)
    for i, owners in enumerate(assignment.gt_index.tolist()):
        expected = slow_pairs(scores[i], bboxes[i], priors, PaddedTruth(*(f[i] for f in gts)))
        assert {prior: gt for prior, gt in enumerate(owners) if gt >= 0} == expected


def test_assign__equal_objects_take_the_best_priors_in_turn() -> None:
    scores = torch.tensor([[[0.2, 0.9, 0.5, 0.1]]])
    priors = torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]])
    box = torch.tensor([0.0, 0.0, 16.0, 16.0])
    gts = PaddedTruth(
        torch.zeros(1, 3, dtype=torch.long), box.repeat(1, 3, 1), torch.ones(1, 3).bool()
    )
    assigner = OneToOneAssigner.like(BatchTALAssigner())
    assignment = assigner.assign(scores, box.repeat(1, 4, 1), priors=priors, truth=gts)
    assert assignment.gt_index.tolist() == [[2, 0, 1, -1]]
    # The one prior of an object is its best: the soft target is the overlap.
    assert assignment.quality[0].tolist() == pytest.approx([1, 1, 1, 0])
    # With topk=1, the plain assigner gives all three the same prior, and one of them keeps it.
    plain = BatchTALAssigner(topk=1).assign(scores, box.repeat(1, 4, 1), priors=priors, truth=gts)
    assert (plain.gt_index >= 0).sum() == 1


def test_assign__more_objects_than_priors() -> None:
    scores, bboxes = torch.rand(1, 1, 2), torch.rand(1, 2, 4)
    priors = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    gts = PaddedTruth(
        torch.zeros(1, 5, dtype=torch.long),
        torch.tensor([0.0, 0.0, 16.0, 8.0]).repeat(1, 5, 1),
        torch.ones(1, 5, dtype=torch.bool),
    )
    assigner = OneToOneAssigner.like(BatchTALAssigner())
    assignment = assigner.assign(scores, bboxes, priors=priors, truth=gts)
    assert sorted(assignment.gt_index[0].tolist()) == [0, 1]


def test_assign__no_objects() -> None:
    gts = PaddedTruth(
        torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, 4), torch.zeros(2, 0).bool()
    )
    assigner = OneToOneAssigner.like(BatchTALAssigner(min_quality=0.1))
    assignment = assigner.assign(
        torch.rand(2, 3, 4), torch.rand(2, 4, 4), priors=torch.rand(4, 2), truth=gts
    )
    assert torch.equal(assignment.gt_index, torch.full((2, 4), -1))
    assert torch.equal(assignment.quality, torch.zeros(2, 4))


def test_assigner__has_the_settings_of_the_other() -> None:
    settings = dict(
        alpha=1.0, beta=4.0, min_gt_side=3.0, eps=1e-6, min_quality=0.2, max_block_pairs=7
    )
    assigner = dict(type='mmext.BatchTALAssigner', topk=9, **settings)
    own = build(train_cfg=dict(assigner=assigner)).one_to_one.criterion.assigner
    assert {name: getattr(own, name) for name in settings} == settings


@pytest.mark.parametrize(
    ('value', 'owners'),
    [
        # Both want prior 2; the second has the higher value. The first then has prior 0: 1 is forbidden to it.
        ([[0.5, -torch.inf, 0.3], [0.9, 0.4, 0.1]], [0, -1, 1, -1]),
        # The first loses prior 2 to the second, and takes prior 1 from the third, whose only wish that was.
        ([[0.8, 0.7, 0.1], [0.9, 0.2, 0.1], [0.1, 0.6, 0.3]], [2, 0, 1, -1]),
        ([[0.5, 0.4, 0.3], [0.5, 0.4, 0.3]], [-1, 1, 0, -1]),
        ([[-torch.inf] * 3], [-1, -1, -1, -1]),
    ],
    ids=['next-best', 'chain', 'equal', 'nothing'],
)
def test_pair_greedily__by_hand(value: list, owners: list) -> None:
    candidates = torch.tensor([2, 1, 0]).repeat(1, len(value), 1)
    assert pair_greedily(torch.tensor([value]), candidates, num_priors=4).tolist() == [owners]


# ----------------------------------------------------------------------------------------- predictions


def predict(head: Segment, outputs: SegmentOutputs) -> InstanceData:
    return head.predict_by_feat(*outputs, [dict(img_shape=INPUT)])[0]


def painted() -> SegmentOutputs:
    """Cells (3, 5) and (3, 6) of stride 8 predict one box, 28 .. 60 x 12 .. 44, for one class; nothing else."""
    scores = [torch.full((1, 3, *cells), -20.0) for cells in ((8, 12), (4, 6), (2, 3))]
    dists = [torch.zeros(1, 4, 16, *level.shape[2:]) for level in scores]
    for column, logit, sides in ((5, 2.0, (2, 2, 2, 2)), (6, 1.0, (3, 2, 1, 2))):
        scores[0][0, 1, 3, column] = logit
        for side, distance in enumerate(sides):
            dists[0][0, side, distance, 3, column] = 100.0
    coeffs = [torch.zeros(1, 4, *level.shape[2:]) for level in scores]
    return SegmentOutputs(
        scores, [level.flatten(1, 2) for level in dists], coeffs, torch.zeros(1, 4, 16, 24)
    )


def test_predict__equal_boxes_of_two_priors_both_stay(no_suppression: None) -> None:
    found = predict(build(test_cfg=dict(score_thr=0.05)), painted())
    expected = torch.tensor([[28.0, 12.0, 60.0, 44.0]] * 2)
    torch.testing.assert_close(found.bboxes, expected)
    assert found.scores.tolist() == pytest.approx(torch.tensor([2.0, 1.0]).sigmoid().tolist())
    assert found.labels.tolist() == [1, 1]
    plain = MODELS.build(head_config(test_cfg=dict(score_thr=0.5)))
    with pytest.raises(AssertionError, match='suppressed'):
        predict(plain, painted())


@pytest.mark.parametrize('multi_label', [True, False], ids=['multi', 'single'])
@pytest.mark.parametrize(
    ('score_thr', 'max_per_img'), [(0.0, 1000), (0.3, 1000), (0.3, 7), (0.999, 7)]
)
def test_select__equals_a_slow_loop(
    multi_label: bool, score_thr: float, max_per_img: int, no_suppression: None
) -> None:
    scores, bboxes = torch.rand(3, 40), torch.rand(40, 4)
    settings = TestSettings(
        score_thr=score_thr, max_per_img=max_per_img, multi_label=multi_label, nms=None, nms_pre=2
    )
    expected = []
    for prior in range(40):
        labels = range(3) if multi_label else [int(scores[:, prior].argmax())]
        expected += [(float(scores[label, prior]), label, prior) for label in labels]
    expected = sorted([each for each in expected if each[0] > score_thr], reverse=True)
    expected = expected[:max_per_img]
    found = select_detections(scores, bboxes, settings)
    parts = (found.scores.tolist(), found.labels.tolist(), found.prior.tolist())
    assert list(zip(*parts, strict=True)) == expected
    assert torch.equal(found.bboxes, bboxes[found.prior])


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
def test_predict__nothing_found(mask_format: str, no_suppression: None) -> None:
    head = build(test_cfg=dict(score_thr=0.9, mask_format=mask_format))
    found = predict(head, painted())
    assert found.bboxes.shape == (0, 4) and len(found.masks) == 0


def test_predict__bfloat16_autocast_keeps_exact_boxes() -> None:
    head = build(test_cfg=dict(score_thr=0.05))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = predict(head, painted())
    assert torch.equal(mixed.bboxes, predict(head, painted()).bboxes)


@pytest.mark.parametrize(
    ('test_cfg', 'num_warnings'),
    [(None, 0), (dict(nms=None), 0), (dict(nms=dict(type='nms', iou_threshold=0.6)), 1)],
    ids=['default', 'none', 'nms'],
)
def test_head__says_that_nms_has_no_effect(
    test_cfg: dict | None, num_warnings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', messages.append)
    assert build(test_cfg=test_cfg).test_settings.nms is None
    assert len(messages) == num_warnings
    assert all('nms_free=True' in message for message in messages)


# --------------------------------------------------------------------------------------- other heads


def enhanced_config() -> dict:
    return head_config(
        type='mmext.SegmentEnhanced',
        nms_free=True,
        refiner=dict(
            type='mmext.MaskRefiner',
            context_channels=3,
            hidden_channels=6,
            train_size=14,
            test_size=14,
        ),
        loss_refine=dict(type='mmext.RefineLoss'),
    )


def attention_config(**settings: object) -> dict:
    det = head_config(nms_free=True, loss_scale='mean')
    train_cfg, test_cfg = det.pop('train_cfg'), det.pop('test_cfg')
    return dict(
        type='mmext.SegmentAttention',
        det=det,
        decoder=dict(
            type='mmext.QueryMaskDecoder',
            embed_dims=40,
            num_heads=4,
            num_layers=3,
            feedforward_channels=16,
        ),
        criterion=dict(type='mmext.QueryCriterion', num_points=32),
        train_cfg=train_cfg,
        test_cfg=test_cfg | settings.pop('test_cfg', {}),
        **settings,
    )


HEADS: dict[str, Callable[[], dict]] = {
    'enhanced': enhanced_config,
    'attention-matched': lambda: attention_config(test_cfg=dict(mode='matched')),
    'attention-seeded': lambda: attention_config(test_cfg=dict(mode='seeded'), num_seeds=5),
}


@pytest.mark.parametrize('config', HEADS.values(), ids=HEADS)
def test_other_heads__train_both_sets_and_predict_without_suppression(
    config: Callable[[], dict], no_suppression: None
) -> None:
    head, x = MODELS.build(config()), features(*INPUT)
    samples = [data_sample(gt, *INPUT) for gt in truth(2, 1)]
    losses = head.loss(x, samples)
    assert set(losses) >= STOCK_LOSSES | LOSSES
    total(losses, set(losses)).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        found = head.eval().predict(x, samples)
    assert all(len(own) > 0 and own.masks.shape == (len(own), *INPUT) for own in found)


def test_enhanced__refines_the_masks_of_one_to_one_detections() -> None:
    head = grown_apart(MODELS.build(enhanced_config())).eval()
    outputs = head([level[:1] for level in features(*INPUT)])
    metas = [dict(img_shape=INPUT)]
    before = head.predict_by_feat(*outputs, metas)[0]
    nn.init.normal_(head.refiner.delta.weight, std=3)
    after = head.predict_by_feat(*outputs, metas)[0]
    assert torch.equal(after.scores, before.scores) and len(after) > 10
    assert (after.masks != before.masks).any(dim=(1, 2)).float().mean() > 0.5


# ------------------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_training__each_object_is_found_once(tmp_path: Path) -> None:
    for split in ('train', 'val'):
        make_tiny_coco(tmp_path, 8, split=split)
    cfg = tiny_segment_config(tmp_path, tmp_path / 'work', max_epochs=250)
    cfg.experiment_name = 'one_to_one'
    cfg.model.bbox_head.nms_free = True
    cfg.default_hooks.checkpoint.interval = 250
    cfg.train_dataloader.batch_size = 8
    # By heart, so always the same pixels.
    cfg.train_dataloader.dataset.pipeline = cfg.val_dataloader.dataset.pipeline
    runner = Runner.from_cfg(cfg)
    runner.train()
    scores = {
        kind: runner.message_hub.get_scalar(f'val/coco/{kind}_mAP').current()
        for kind in ('bbox', 'segm')
    }
    assert scores['bbox'] > 0.9 and scores['segm'] > 0.8, scores

    model = runner.model.eval()
    with torch.no_grad():
        results = [result for data in runner.val_dataloader for result in model.val_step(data)]
    for result in results:
        found = result.pred_instances
        # One square and one disc.
        assert sorted(found.labels[found.scores > 0.5].tolist()) == [0, 1]
