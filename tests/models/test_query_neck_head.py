"""QuerySegHead: a query decoder on what any neck hands on."""

import copy
from collections.abc import Sequence

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmext.models.common.query_outputs import QueryOutputs
from mmext.models.query_seg.neck_head import QuerySegHead
from tests.contract_kinds import Instances
from tests.models.mask2former_models import make_samples
from tests.systems import query_seg_neck


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def head_config(in_channels: Sequence[int], **changes: object) -> dict:
    config = dict(
        type='mmext.QuerySegHead',
        in_channels=in_channels,
        num_things_classes=3,
        num_stuff_classes=0,
        decoder=dict(
            type='mmext.QueryMaskDecoder',
            embed_dims=16,
            num_heads=2,
            num_queries=8,
            num_layers=2,
            feedforward_channels=32,
        ),
        criterion=dict(type='mmext.QueryCriterion', num_points=32),
    )
    return config | changes


def build(in_channels: Sequence[int] = (4, 8), **changes: object) -> QuerySegHead:
    return MODELS.build(head_config(in_channels, **changes))


def make_maps(*sizes: tuple[int, int, int]) -> list[Tensor]:
    """(2, C, h, w) each."""
    return [torch.randn(2, *size) for size in sizes]


NECKS = {
    'none': (None, [8, 16, 32, 64]),
    'FPN': (
        dict(type='mmdet.FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4),
        [16] * 4,
    ),
    'PAFPN': (
        dict(type='mmdet.PAFPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4),
        [16] * 4,
    ),
    'YOLO': (
        [
            dict(type='mmdet.ChannelMapper', in_channels=[8, 16, 32, 64], out_channels=32),
            dict(type='LastMaps', count=3),
            dict(
                type='mmext.CSPPAN',
                version='v8',
                in_channels=[32, 32, 32],
                out_channels=[16, 16, 16],
                deepen_factor=0.33,
            ),
        ],
        [16] * 3,
    ),
    'LiteEncoder': (
        [
            dict(type='LastMaps', count=1),
            dict(
                type='mmext.LiteEncoder',
                in_channels=(64,),
                out_channels=16,
                block='e4',
                csp_channels=4,
                num_csp_blocks=1,
            ),
        ],
        [16, 16],
    ),
}


class Last(nn.Module):
    """The last maps."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        return maps[-self.count :]


@pytest.fixture(scope='module', autouse=True)
def picking_necks():
    MODELS.register_module(name='LastMaps', module=Last)
    yield
    MODELS.module_dict.pop('LastMaps')


@pytest.mark.slow
@pytest.mark.parametrize('name', NECKS)
def test_detector__any_neck(name):
    neck, in_channels = NECKS[name]
    config = ConfigDict(copy.deepcopy(query_seg_neck()))
    config.neck = neck
    config.panoptic_head.in_channels = in_channels
    model = MODELS.build(config)
    kind = Instances()
    images = [(torch.rand(3, 64, 96) * 255).byte() for _ in range(2)]
    data = dict(inputs=images, data_samples=[kind.sample(64, 96, 2) for _ in images])
    losses = model.train()(**model.data_preprocessor(data, training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.panoptic_head.parameters())
    with torch.no_grad():
        found = model.eval().test_step(data)
    for sample in found:
        kind.check_result(sample, (64, 96))


def test_predict__masks_lie_where_the_maps_say(monkeypatch):
    """A query for each quarter of an image of 32 x 64 px, of which the right half is padding."""
    head = build().eval()
    features = torch.zeros(1, 2, 8, 16)
    features[0, 0, :4, :4] = features[0, 1, 4:, 4:8] = 2.0
    features -= 1.0
    logits = torch.tensor([[[0.0, 9.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]]])
    outputs = QueryOutputs([logits], [torch.eye(2)[None] * 9], torch.eye(2)[None], features)
    monkeypatch.setattr(head.decoder, 'forward', lambda maps: outputs)
    samples = make_samples(16, 16, (0,))
    samples[0].set_metainfo(
        dict(batch_input_shape=(32, 64), img_shape=(32, 32), ori_shape=(64, 64))
    )
    classes, masks = head.predict([torch.zeros(1, 4, 4, 8), torch.zeros(1, 8, 2, 4)], samples)
    fusion = MODELS.build(
        dict(
            type='mmext.QueryFusionHead',
            num_things_classes=3,
            num_stuff_classes=0,
            test_cfg=ConfigDict(panoptic_on=False, instance_on=True, max_per_image=2),
        )
    )
    found = fusion.predict(classes, masks, samples, rescale=True)[0]['ins_results']
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 1]
    expected = torch.tensor([[32.0, 32, 64, 64], [0, 0, 32, 32]])
    # Within the blur of the enlargement, half a pixel of the maps: 4 px of the file.
    assert (found.bboxes[order] - expected).abs().max() <= 4
    assert found.masks[order][0, 40:, 40:].all() and not found.masks[order][0, :28].any()


def test_loss__objects_and_stuff_reach_the_criterion(monkeypatch):
    head = build(num_stuff_classes=2)
    seen = {}

    def record(outputs: QueryOutputs, labels: list[Tensor], masks: list[Tensor]) -> dict:
        seen.update(outputs=outputs, labels=labels, masks=masks)
        return {}

    monkeypatch.setattr(head.criterion, 'forward', record)
    samples = make_samples(32, 32, (2, 0))
    segs = torch.full((2, 1, 32, 32), 255)
    segs[0, 0, :8], segs[1, 0, :4], segs[1, 0, 4:8] = 1, 4, 3
    for sample, seg in zip(samples, segs, strict=True):
        sample.gt_sem_seg = PixelData(sem_seg=seg)
    head.train().loss(make_maps((4, 8, 8), (8, 4, 4)), samples)
    assert head.num_classes == 5 and head.decoder.class_head.out_features == 6
    # Before the first layer, and after both.
    assert len(seen['outputs'].class_logits) == 3
    # Class 1 of the map is a thing, which the instances are.
    assert seen['labels'][0].equal(samples[0].gt_instances.labels)
    assert seen['labels'][1].tolist() == [3, 4]
    assert seen['masks'][1].flatten(1).sum(1).tolist() == [128, 128]
    assert seen['masks'][1].shape == (2, 32, 32)


def test_forward__every_output_in_training_the_last_in_evaluation():
    head = build()
    maps = make_maps((4, 8, 8), (8, 4, 4))
    classes, masks = head.train()(maps)
    assert len(classes) == len(masks) == 3 and masks[-1].shape == (2, 8, 16, 16)
    classes, masks = head.eval()(maps)
    assert len(classes) == len(masks) == 1


def test_forward__maps_of_one_size():
    head = build([4, 4, 4])
    _, masks = head.train()(make_maps((4, 1, 3), (4, 1, 3), (4, 1, 3)))
    assert masks[-1].shape == (2, 8, 2, 6) and masks[-1].isfinite().all()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(train_cfg=dict(num_points=4)), r"got train_cfg with \['num_points'\].*criterion"),
        (
            dict(decoder=dict(type='mmext.QueryMaskDecoder', num_queries=0)),
            'got decoder.num_queries=0.*mmext.SegmentAttention',
        ),
    ],
    ids=['train_cfg', 'seeds'],
)
def test_init__mistakes(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    'sizes', [[(4, 8, 8)], [(4, 8, 8), (4, 4, 4)]], ids=['too few', 'other channels']
)
def test_forward__maps_of_another_neck(sizes):
    with pytest.raises(ValueError, match=r'got maps of .*expected in_channels=\[4, 8\]'):
        build()(make_maps(*sizes))


def test_loss__no_masks():
    samples = make_samples(32, 32, (1, 1))
    del samples[0].gt_instances.masks
    with pytest.raises(ValueError, match='query head: got ground truth without masks'):
        build().loss(make_maps((4, 8, 8), (8, 4, 4)), samples)
