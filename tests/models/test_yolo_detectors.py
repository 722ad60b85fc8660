"""Whole detectors with the options of their configs, one line each: they train every parameter, and find objects."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmext.registry import MODELS
from tests.models.yolo_models import data_sample, instances
from tests.tiny import tiny_segment_model

SIZE = (64, 96)
SMALL_AND_LARGE = [[10.0, 12.0, 22.0, 20.0], [20.0, 4.0, 90.0, 60.0]]


def levels(*channels: int, strides: tuple[int, ...], **backbone: object) -> dict:
    """The lines of a config that choose the levels."""
    return dict(
        backbone=backbone,
        neck=dict(in_channels=channels, out_channels=channels, strides=strides),
        bbox_head=dict(in_channels=channels, strides=strides),
    )


P2 = levels(16, 32, 64, 128, strides=(4, 8, 16, 32), out_indices=(1, 2, 3, 4))
P6 = levels(32, 64, 128, 128, strides=(8, 16, 32, 64), out_indices=(2, 3, 4, 5), num_stages=5)
OPTIONS = {
    'p2': P2,
    'p6': P6,
    'p6-reg_max_8': P6 | dict(bbox_head=P6['bbox_head'] | dict(reg_max=8)),
    'reg_max_24': dict(bbox_head=dict(reg_max=24)),
    'mask_stride_2': dict(bbox_head=dict(loss_mask=dict(mask_stride=2))),
    'max_positives': dict(bbox_head=dict(loss_mask=dict(max_positives=3))),
    'mask_box_expand': dict(test_cfg=dict(mask_box_expand=0.2)),
    'nms_free': dict(bbox_head=dict(nms_free=True)),
}
ENHANCED = dict(
    type='mmext.SegmentEnhanced',
    proto=dict(
        _delete_=True,
        type='mmext.MultiScaleProto',
        common_channels=8,
        hidden_channels=16,
        hr_channels=8,
    ),
    refiner=dict(
        type='mmext.MaskRefiner', context_channels=4, hidden_channels=8, train_size=7, test_size=7
    ),
    loss_refine=dict(type='mmext.RefineLoss'),
)


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def segment_config(option: dict, **head: object) -> Config:
    cfg = Config(dict(model=tiny_segment_model()))
    cfg.merge_from_dict(dict(model=option))
    cfg.merge_from_dict(dict(model=dict(bbox_head=head)))
    return cfg


def attention_config(option: dict) -> Config:
    """The head of a config becomes the detections of `SegmentAttention`."""
    cfg = segment_config(option)
    cfg.model.bbox_head = dict(
        type='mmext.SegmentAttention',
        det=cfg.model.bbox_head,
        decoder=dict(
            type='mmext.QueryMaskDecoder',
            embed_dims=16,
            num_heads=2,
            num_layers=4,
            feedforward_channels=16,
        ),
        criterion=dict(type='mmext.QueryCriterion', num_points=32),
        num_seeds=10,
    )
    cfg.model.test_cfg.mode = 'matched'
    return cfg


CASES = {f'segment-{name}': (segment_config, option) for name, option in OPTIONS.items()}
for name in ('p2', 'p6', 'mask_stride_2'):
    CASES[f'enhanced-{name}'] = (lambda own: segment_config(own, **ENHANCED), OPTIONS[name])
    CASES[f'attention-{name}'] = (attention_config, OPTIONS[name])


def batch(
    model: nn.Module, training: bool, bboxes: Sequence[Sequence[float]] = SMALL_AND_LARGE
) -> dict:
    """Two images, through the model's preprocessor: one with these objects of two classes in turn, one with none."""
    found = instances(bboxes, [index % 2 for index in range(len(bboxes))], *SIZE)
    samples = [data_sample(found, *SIZE), data_sample(instances([], [], *SIZE), *SIZE)]
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.randint(256, (3, *SIZE), generator=generator, dtype=torch.uint8) for _ in samples
    ]
    return model.data_preprocessor(dict(inputs=images, data_samples=samples), training)  # type: ignore[operator]


@pytest.mark.parametrize(('make', 'option'), CASES.values(), ids=CASES)
def test_option__of_a_config_trains_and_predicts(make, option: dict) -> None:
    torch.manual_seed(0)
    model = MODELS.build(Config(make(option).to_dict()).model)
    model.init_weights()
    losses = model.train()(**batch(model, True), mode='loss')
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []

    with torch.no_grad():
        found: list[DetDataSample] = model.eval()(**batch(model, False), mode='predict')
    for sample in found:
        own = sample.pred_instances
        assert 0 < len(own) <= 20
        assert len(own.masks) == len(own) and own.masks[0]['size'] == list(SIZE)
        assert (own.bboxes[:, 2::2] <= SIZE[1]).all() and (own.bboxes >= 0).all()


HEADS = {
    'segment': lambda: segment_config({}),
    'enhanced': lambda: segment_config({}, **ENHANCED),
    'attention': lambda: attention_config({}),
}


@pytest.mark.parametrize('make', HEADS.values(), ids=HEADS)
def test_loss__of_very_many_objects(make) -> None:
    num_objects = 500
    torch.manual_seed(0)
    model = MODELS.build(make().model)
    model.init_weights()
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, (SIZE[1] - 40, SIZE[0] - 40), (num_objects, 2))
    bboxes = np.concatenate([corners, corners + rng.uniform(4, 40, (num_objects, 2))], axis=1)
    losses = model.train()(**batch(model, True, bboxes.tolist()), mode='loss')
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
