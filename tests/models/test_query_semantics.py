"""Classes of pixels from queries: mmseg's head, mmdet's last step, and slow loops."""

import pytest
import torch
from mmdet.models.detectors import Mask2Former
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.structures import SegDataSample
from torch import Tensor

from mmext.models.query_seg import semantics
from mmext.models.query_seg.semantics import predict_class_map, score_classes
from tests.models.mask2former_models import (
    CLASSES,
    head_config,
    make_features,
    make_samples,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make_seg_heads() -> tuple[Mask2FormerHead, Mask2FormerHead]:
    """mmseg's head and ours with the same weights."""
    theirs, ours = (
        MODELS.build(head_config(kind, num_classes=CLASSES))
        for kind in ('mmseg.Mask2FormerHead', 'mmext.FastMask2FormerSegHead')
    )
    theirs.init_weights()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def make_seg_samples(*segs: Tensor) -> list[SegDataSample]:
    """An image for each label map (H, W)."""
    return [SegDataSample(gt_sem_seg=PixelData(data=seg[None])) for seg in segs]


def blocks(num_labels: int, size: int = 32) -> Tensor:
    """A label map of squares of 8 px, with some to be ignored."""
    seg = torch.randint(-1, num_labels, (size // 8, size // 8)) % 256
    return seg.repeat_interleave(8, 0).repeat_interleave(8, 1)


def test_loss__equals_mmsegs():
    theirs, ours = make_seg_heads()
    features = make_features(32, 32, batch=3)
    samples = make_seg_samples(blocks(3), torch.full((32, 32), 255), blocks(1))
    results = []
    for head in (theirs, ours):
        torch.manual_seed(1)
        results.append(head.train().loss(features, samples, ConfigDict()))
    assert list(results[0]) == list(results[1])
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value.reshape(()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    'meta',
    [dict(img_shape=(32, 40)), dict(img_shape=(30, 37), pad_shape=(32, 40))],
    ids=['image', 'padded'],
)
def test_predict__equals_mmsegs(meta):
    theirs, ours = (head.eval() for head in make_seg_heads())
    features = make_features(32, 40)
    with torch.no_grad():
        expected = theirs.predict(features, [meta] * 2, ConfigDict())
        found = ours.predict(features, [meta] * 2, ConfigDict())
    assert found.shape == (2, CLASSES, 32, 40)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert len(ours(features)[0]) == 1  # mmseg's `mode='tensor'` gives no samples


def test_loss__label_that_is_no_class():
    _, ours = make_seg_heads()
    samples = make_seg_samples(torch.full((32, 32), 3))
    with pytest.raises(ValueError, match=r'got the labels \[3\].*expected classes in \[0, 3\)'):
        ours.loss(make_features(32, 32, batch=1), samples, ConfigDict())


@pytest.mark.parametrize('limit', [1, 2**23], ids=['in pieces', 'at once'])
def test_score_classes__equals_a_slow_loop(monkeypatch, limit):
    monkeypatch.setattr(semantics, 'MAX_CHUNK_VALUES', limit)
    classes, masks = torch.randn(2, 5, 4), torch.randn(2, 5, 3, 3)
    found = score_classes(classes, masks, (6, 7))
    resized = torch.nn.functional.interpolate(masks, (6, 7), mode='bilinear')
    expected = torch.zeros(2, 3, 6, 7)
    for image in range(2):
        for query in range(5):
            weights = classes[image, query].exp() / classes[image, query].exp().sum()
            for label in range(3):
                mask = 1 / (1 + (-resized[image, query]).exp())
                expected[image, label] += weights[label] * mask
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('limit', [1, 2**23], ids=['in pieces', 'at once'])
def test_predict_class_map__is_the_best_score(monkeypatch, limit):
    monkeypatch.setattr(semantics, 'MAX_CHUNK_VALUES', limit)
    classes, masks = torch.randn(5, 4), torch.randn(5, 6, 7)
    expected = score_classes(classes[None], masks[None], (6, 7))[0].argmax(dim=0)
    assert predict_class_map(classes, masks).equal(expected)


def fusion_head(**test_cfg: object) -> torch.nn.Module:
    config = dict(
        type='mmext.QueryFusionHead',
        num_things_classes=CLASSES,
        num_stuff_classes=0,
        test_cfg=ConfigDict(max_per_image=4, **test_cfg),
    )
    return MODELS.build(config)


def test_fusion_head__class_map_of_the_file():
    classes = torch.full((1, 2, CLASSES + 1), -9.0)
    classes[0, 0, 2] = classes[0, 1, 1] = 9.0
    masks = torch.full((1, 2, 8, 8), -9.0)
    masks[0, 0, :, :3] = masks[0, 1, :, 3:] = 9.0
    samples = make_samples(8, 8, (0,))
    samples[0].set_metainfo(dict(img_shape=(6, 6), ori_shape=(12, 12)))
    head = fusion_head(semantic_on=True, panoptic_on=False, instance_on=True)
    results = head.predict(classes, masks, samples, rescale=True)
    Mask2Former.add_pred_to_datasample(None, samples, results)
    expected = torch.ones(1, 12, 12, dtype=torch.long)
    expected[..., :6] = 2
    assert samples[0].pred_sem_seg.sem_seg.equal(expected)
    assert samples[0].pred_instances.masks.shape[1:] == (12, 12)


def test_fusion_head__as_mmdets_without_semantics():
    samples = make_samples(8, 8, (0,))
    head = fusion_head(panoptic_on=True)
    (result,) = head.predict(torch.randn(1, 2, 4), torch.randn(1, 2, 8, 8), samples)
    assert list(result) == ['pan_results'] and 'pred_sem_seg' not in samples[0]


def test_fusion_head__all_results_at_once_are_mmdets():
    # Of 12 candidates; mmdet fails where it is asked for more than there are.
    settings = dict(object_mask_thr=0.1, iou_thr=0.1, max_per_image=12)
    config = dict(num_things_classes=2, num_stuff_classes=1)
    ours, theirs = (
        MODELS.build(dict(type=kind, test_cfg=ConfigDict(settings | more), **config))
        for kind, more in (
            ('mmext.QueryFusionHead', dict(semantic_on=True, instance_on=True, max_per_image=50)),
            ('mmdet.MaskFormerFusionHead', dict(instance_on=True)),
        )
    )
    classes, masks = 2 * torch.randn(1, 4, 4), 4 * torch.randn(1, 4, 8, 8)
    samples = make_samples(8, 8, (0,))
    (found,) = ours.predict(classes, masks, samples, rescale=True)
    (expected,) = theirs.predict(classes, masks, samples, rescale=True)
    panoptic = found['pan_results'].sem_seg
    assert panoptic.equal(expected['pan_results'].sem_seg) and len(panoptic.unique()) > 1
    assert 0 < len(found['ins_results']) < 12  # without stuff
    for name, value in expected['ins_results'].items():
        assert found['ins_results'][name].equal(value), name
    assert samples[0].pred_sem_seg.sem_seg.shape == (1, 8, 8)


def test_mmdets_detector__takes_all_by_changed_types():
    panoptic = head_config('mmext.FastMask2FormerHead', in_channels=[8, 16, 32, 64])
    train_cfg, test_cfg = panoptic.pop('train_cfg'), panoptic.pop('test_cfg')
    model = MODELS.build(
        ConfigDict(
            type='mmdet.Mask2Former',
            backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
            panoptic_head=panoptic,
            panoptic_fusion_head=dict(
                type='mmext.QueryFusionHead', num_things_classes=CLASSES, num_stuff_classes=0
            ),
            train_cfg=train_cfg,
            test_cfg=dict(
                test_cfg, max_per_image=4, panoptic_on=False, instance_on=True, semantic_on=True
            ),
        )
    )
    images, samples = torch.randn(1, 3, 64, 64), make_samples(64, 64, (2,))
    losses = model.train().loss(images, samples)
    assert len(losses) == 15 and all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        (result,) = model.eval().predict(images, samples)
    assert result.pred_sem_seg.sem_seg.shape == (1, 64, 64)
    assert result.pred_instances.masks.shape == (4, 64, 64)
    # 3 queries at 3 classes have fewer candidates; the setting stays for images with more.
    head = model.panoptic_fusion_head
    head.test_cfg = ConfigDict(head.test_cfg, max_per_image=50)
    found = head.instance_postprocess(torch.randn(3, CLASSES + 1), torch.randn(3, 8, 8))
    assert len(found) == 3 * CLASSES and head.test_cfg.max_per_image == 50
