"""Operations by hand, and the stages of a tiny detector."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmext.apis.profiling import (
    Workload,
    count_flops,
    count_parameters,
    make_photo,
    time_interleaved,
)
from tests.systems import SYSTEMS
from tests.tiny import tiny_model, tiny_segment_model


def build(config: dict) -> nn.Module:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(ConfigDict(config)).eval()


def test_count_parameters__sum_of_all_arrays():
    # 3 * 8 * 3 * 3 weights, 8 biases; 8 scales and 8 shifts of the normalisation, whose statistics are not learned.
    assert count_parameters(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))) == 216 + 8 + 16


@pytest.mark.parametrize(
    ('layer', 'shape', 'flops'),
    [
        # 10 x 12 output pixels, each 8 sums of 3 * 3 * 3 products.
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 2 * 120 * 8 * 27),
        (nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6), (1, 6, 8, 8), 2 * 16 * 6 * 9),
        # Each of 4 x 4 input pixels makes 2 x 2 output pixels of 5 channels from 3.
        (nn.ConvTranspose2d(3, 5, 2, stride=2), (1, 3, 4, 4), 2 * 16 * 4 * 5 * 3),
        (nn.Linear(7, 9), (4, 7), 2 * 4 * 9 * 7),
    ],
    ids=['convolution', 'depthwise', 'transposed', 'linear'],
)
@torch.no_grad()
def test_count_flops__by_hand(layer, shape, flops):
    assert count_flops(lambda: layer(torch.zeros(shape))) == flops


@pytest.mark.parametrize('mask', [None, torch.ones(10, 6, dtype=torch.bool)], ids=['all', 'masked'])
@torch.no_grad()
def test_count_flops__attention(mask):
    query, key = torch.zeros(1, 2, 10, 8), torch.zeros(1, 2, 6, 8)
    # In each of 2 heads 10 x 6 scores of 8 products, and 10 x 8 values of 6 products.
    attention = nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attention(query, key, key, mask)) == 2 * 2 * (480 + 480)


@torch.no_grad()
def test_count_flops__published_figure_of_yolov8n_seg():
    config = SYSTEMS['yolo-segment-v8']
    config = config | dict(bbox_head=config['bbox_head'] | dict(num_classes=80))
    model = build(config).to('meta')
    image = torch.zeros(1, 3, 640, 640, device='meta')
    flops = count_flops(lambda: model.bbox_head(model.extract_feat(image)))
    # Published are 12.6; there the transposed convolution to 160 x 160 pixels counts once for each of them, not for each
    # of the 80 x 80 that go in: 3/4 of 2 * 160^2 * 64 * 64 * 2 * 2 too much.
    assert round((flops + 0.75 * 2 * 160**2 * 64 * 64 * 4) / 1e9, 1) == 12.6


@pytest.fixture(scope='module')
def segment() -> nn.Module:
    return build(tiny_segment_model() | dict(test_cfg=dict(max_per_img=40, mask_format='rle')))


def test_workload__finds_as_many_objects_as_are_planted(segment):
    workload = Workload(segment, make_photo((300, 200)), input_size=128, num_detections=12)
    assert workload.num_found == 12
    found = workload.post()[0]
    assert {tuple(mask['size']) for mask in found.masks} == {(200, 300)}
    # The photo is 128 x 85 pixels of the network input; its paddings hold no object.
    assert found.bboxes.min() >= 0 and found.bboxes[:, 3].max() <= 200


@pytest.mark.parametrize('system', [name for name in SYSTEMS if name.startswith('yolo')])
def test_workload__every_head(system):
    config = SYSTEMS[system]
    workload = Workload(build(config), make_photo((300, 200)), input_size=128, num_detections=12)
    # Seeded queries are as many as there are seeds, and no head finds more than it may.
    limits = (config['bbox_head'].get('num_seeds', 12), config['test_cfg']['max_per_img'])
    assert workload.num_found == min(12, *limits)
    masks = workload.post()[0].masks
    assert {tuple(mask['size']) if isinstance(mask, dict) else mask.shape for mask in masks} == {
        (200, 300)
    }
    assert count_flops(workload.net) > count_flops(workload.post) > 0


def test_workload__stages_together_are_what_the_model_does(segment):
    photo = make_photo((300, 200))
    workload = Workload(segment, photo, input_size=128, num_detections=None)
    with torch.no_grad():
        data = workload.pre()
        expected = segment.predict(data['inputs'], data['data_samples'])[0].pred_instances
    found = workload.post()[0]
    torch.testing.assert_close(found.bboxes, expected.bboxes)
    torch.testing.assert_close(found.scores, expected.scores)
    assert len(found.scores) == workload.num_found > 0


def test_workload__leaves_the_model_as_it_was(segment):
    before = {key: value.clone() for key, value in segment.state_dict().items()}
    workload = Workload(segment, make_photo((300, 200)), input_size=128, num_detections=12)
    workload.net()
    assert 'predict_by_feat' not in vars(segment.bbox_head)
    assert not any(module._forward_hooks for module in segment.modules())
    assert all(torch.equal(value, before[key]) for key, value in segment.state_dict().items())


def test_workload__deim():
    model = build(SYSTEMS['deim-atto'])
    workload = Workload(model, make_photo((300, 200)), input_size=128, num_detections=12)
    # Nothing can be planted: it finds as much as it may.
    assert workload.num_found == SYSTEMS['deim-atto']['test_cfg']['max_per_img']
    with torch.no_grad():
        data = workload.pre()
        expected = model.predict(data['inputs'], data['data_samples'])[0].pred_instances
    found = workload.post()[0]
    torch.testing.assert_close(found.bboxes, expected.bboxes)
    torch.testing.assert_close(found.scores, expected.scores)
    # The decoder is part of the network, and all that is left are comparisons.
    whole = count_flops(lambda: model(data['inputs'], mode='tensor'))
    assert count_flops(workload.net) == whole > 0
    assert count_flops(workload.post) == 0
    assert 'predict_by_outputs' not in vars(model)


@pytest.mark.parametrize('system', [name for name in SYSTEMS if name.startswith('localizer')])
def test_workload__localizer(system):
    model = build(SYSTEMS[system])
    workload = Workload(model, make_photo((64, 64)), input_size=32, num_detections=12)
    # Nothing can be planted: it finds one object, whatever there is.
    assert workload.num_found == 1
    with torch.no_grad():
        data = workload.pre()
        expected = model.predict(data['inputs'], data['data_samples'])[0].pred_instances
    torch.testing.assert_close(workload.post()[0].bboxes, expected.bboxes)
    torch.testing.assert_close(workload.post()[0].probabilities, expected.probabilities)
    # Both heads are part of the network, and all that is left is arithmetic on four numbers.
    whole = count_flops(lambda: model(data['inputs'], mode='tensor'))
    assert count_flops(workload.net) == whole > 0 == count_flops(workload.post)
    assert 'predict_by_outputs' not in vars(model)


def test_workload__nothing_is_planted_into_detectors_of_others():
    model = build(tiny_model())
    found = [
        Workload(model, make_photo((128, 128)), input_size=64, num_detections=number).num_found
        for number in (None, 7)
    ]
    assert found[0] == found[1] != 7


def test_workload__no_single_stage_detector_is_one_message():
    with pytest.raises(ValueError, match='got a model of type Linear, expected a single-stage'):
        Workload(nn.Linear(1, 1), make_photo((64, 64)), input_size=64, num_detections=None)


def test_time_interleaved__models_take_turns(segment, monkeypatch):
    workloads = [
        Workload(segment, make_photo((64, 64)), input_size=64, num_detections=None) for _ in 'ab'
    ]
    calls = []
    for name, workload in zip('ab', workloads, strict=True):
        for stage in ('pre', 'net', 'post'):
            monkeypatch.setattr(workload, stage, lambda call=name + stage: calls.append(call))
    times = time_interleaved(workloads, repeat=2, warmup=1)
    assert calls == ['apre', 'anet', 'apost', 'bpre', 'bnet', 'bpost'] * 3
    for own in (kind for model in times for kind in model):
        assert [len(own[stage]) for stage in ('pre', 'net', 'post')] == [2, 2, 2]
        assert own['total'] == pytest.approx(own['pre'] + own['net'] + own['post'])
