"""Conversion of published YOLO weights to the names of mmext's detectors."""

import functools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmext.models.yolo.variants import SCALES, Variant
from mmext.models.yolo.weights import ConversionReport, convert_state_dict, revert_state_dict
from tests.published_yolo import published_state_dict

GOLDEN = Path(__file__).parents[1] / 'golden'
# Tensors in the published files, the frozen one of the distance integral included.
PUBLISHED_TENSORS = {
    'v8': dict(n=417, s=417, m=537, l=657, x=657),
    'v11': dict(n=561, s=561, m=711, l=1077, x=1077),
}
SIZES = [(version, size) for version in SCALES for size in SCALES[version]]
SIZE_IDS = [''.join(key) for key in SIZES]


@pytest.fixture(scope='module')
def v8n() -> dict[str, Tensor]:
    return published_state_dict('v8', 'n', num_classes=3)


@functools.cache
def published_on_meta(version: str, size: str) -> dict[str, Tensor]:
    return published_state_dict(version, size, device='meta')


@functools.cache
def conversion(version: str, size: str) -> tuple[dict[str, Tensor], ConversionReport]:
    return convert_state_dict(published_on_meta(version, size))


# The large ones share their rules with m.
@pytest.mark.parametrize(
    ('version', 'size'),
    [pytest.param(*key, marks=pytest.mark.slow if key[1] in 'lx' else ()) for key in SIZES],
    ids=SIZE_IDS,
)
def test_convert__all_published_sizes_are_recognised_and_consumed(version: str, size: str) -> None:
    published = published_on_meta(version, size)
    assert len(published) == PUBLISHED_TENSORS[version][size]
    converted, report = conversion(version, size)
    assert report.variant == Variant(version, size, num_classes=80, num_prototypes=32)
    assert len(report.mapped) == len(converted) == len(published) - 1
    assert report.ignored == (f'model.{22 if version == "v8" else 23}.dfl.conv.weight',)


@pytest.mark.parametrize(('version', 'name'), [('v8', 'yolov8n-seg'), ('v11', 'yolo11n-seg')])
def test_revert__gives_exactly_the_published_names_and_shapes(version: str, name: str) -> None:
    published = json.loads((GOLDEN / f'{name}.json').read_text())['keys']
    ours = published_on_meta(version, 'n')
    assert {key: list(tensor.shape) for key, tensor in ours.items()} == published


# Written down from the published files: name, shape, and what the layer is.
@pytest.mark.parametrize(
    ('version', 'name', 'shape', 'target'),
    [
        ('v8', 'model.0.conv.weight', (16, 3, 3, 3), 'backbone.stem.conv.weight'),
        ('v8', 'model.4.m.1.cv2.bn.bias', (32,), 'backbone.stage2.1.m.1.cv2.bn.bias'),
        ('v8', 'model.9.cv2.conv.weight', (256, 512, 1, 1), 'backbone.stage4.2.cv2.conv.weight'),
        ('v8', 'model.12.cv1.conv.weight', (128, 384, 1, 1), 'neck.top_down_blocks.0.cv1.conv.weight'),
        ('v8', 'model.15.m.0.cv1.conv.weight', (32, 32, 3, 3), 'neck.top_down_blocks.1.m.0.cv1.conv.weight'),
        ('v8', 'model.16.conv.weight', (64, 64, 3, 3), 'neck.downsamples.0.conv.weight'),
        ('v8', 'model.18.cv2.conv.weight', (128, 192, 1, 1), 'neck.bottom_up_blocks.0.cv2.conv.weight'),
        ('v8', 'model.19.conv.weight', (128, 128, 3, 3), 'neck.downsamples.1.conv.weight'),
        ('v8', 'model.21.cv1.conv.weight', (256, 384, 1, 1), 'neck.bottom_up_blocks.1.cv1.conv.weight'),
        ('v8', 'model.22.cv2.1.2.weight', (64, 64, 1, 1), 'bbox_head.reg_branches.1.2.weight'),
        ('v8', 'model.22.cv3.2.0.conv.weight', (80, 256, 3, 3), 'bbox_head.cls_branches.2.0.conv.weight'),
        ('v8', 'model.22.cv4.0.2.bias', (32,), 'bbox_head.coeff_branches.0.2.bias'),
        ('v8', 'model.22.proto.upsample.weight', (64, 64, 2, 2), 'bbox_head.proto.upsample.weight'),
        ('v11', 'model.8.m.0.m.1.cv2.conv.weight', (64, 64, 3, 3), 'backbone.stage4.1.m.0.m.1.cv2.conv.weight'),
        ('v11', 'model.10.m.0.attn.qkv.conv.weight', (256, 128, 1, 1), 'backbone.stage4.3.m.0.attn.qkv.conv.weight'),
        ('v11', 'model.10.m.0.attn.pe.conv.weight', (128, 1, 3, 3), 'backbone.stage4.3.m.0.attn.pe.conv.weight'),
        ('v11', 'model.10.m.0.ffn.1.bn.running_var', (128,), 'backbone.stage4.3.m.0.ffn.1.bn.running_var'),
        ('v11', 'model.16.cv1.conv.weight', (64, 256, 1, 1), 'neck.top_down_blocks.1.cv1.conv.weight'),
        ('v11', 'model.22.m.0.cv3.conv.weight', (128, 128, 1, 1), 'neck.bottom_up_blocks.1.m.0.cv3.conv.weight'),
        ('v11', 'model.23.cv3.1.0.0.conv.weight', (128, 1, 3, 3), 'bbox_head.cls_branches.1.0.0.conv.weight'),
        ('v11', 'model.23.cv3.0.1.1.conv.weight', (80, 80, 1, 1), 'bbox_head.cls_branches.0.1.1.conv.weight'),
    ],
)  # fmt: skip
def test_convert__published_names_and_shapes_of_size_n(
    version: str, name: str, shape: tuple[int, ...], target: str
) -> None:
    converted, report = conversion(version, 'n')
    assert report.mapped[name] == target
    assert converted[target].shape == shape


def test_convert__half_precision_becomes_equal_float32_in_own_memory(v8n: dict) -> None:
    half = {name: t.half() if t.is_floating_point() else t for name, t in v8n.items()}
    converted, report = convert_state_dict(half)
    for source, target in report.mapped.items():
        kept_dtype = torch.int64 if source.endswith('num_batches_tracked') else torch.float32
        assert converted[target].dtype == kept_dtype, source
        assert torch.equal(converted[target].to(half[source].dtype), half[source]), source
        assert converted[target].data_ptr() != half[source].data_ptr(), source


def test_revert__undoes_conversion(v8n: dict) -> None:
    reverted = revert_state_dict(convert_state_dict(v8n)[0], 'v8')
    assert reverted.keys() == v8n.keys()
    assert all(torch.equal(reverted[name], v8n[name]) for name in v8n)
    assert reverted['model.22.dfl.conv.weight'].flatten().tolist() == list(range(16))


def test_revert__unknown_name() -> None:
    with pytest.raises(ValueError, match='no place for bbox_head.refiner.weight'):
        revert_state_dict({'bbox_head.refiner.weight': torch.zeros(1)}, 'v8')


def _without(state: dict, *endings: str) -> dict:
    return {name: tensor for name, tensor in state.items() if not name.endswith(endings)}


def _detection_only(state: dict) -> dict:
    return {name: t for name, t in state.items() if '.cv4.' not in name and '.proto.' not in name}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: {**s, 'model.22.one2one.weight': torch.ones(1)}, 'model.22.one2one.weight: not part'),
        (lambda s: {**s, 'model.0.bias': torch.ones(1)}, 'backbone.stem.bias: not part'),
        (lambda s: _without(s, 'model.5.bn.bias'), 'backbone.stage3.0.bn.bias: missing'),
        (
            lambda s: {**s, 'model.9.cv1.bn.bias': torch.ones(3)},
            r'backbone.stage4.2.cv1.bn.bias: got \[3\], expected \[128\]',
        ),
        (_detection_only, 'detection model without mask branches'),
        (lambda s: {'layer1.0.conv1.weight': torch.ones(1)}, 'not a YOLOv8-seg or YOLO11-seg model'),
        (
            lambda s: {**s, 'model.0.conv.weight': torch.ones(24, 3, 3, 3)},
            'no size of YOLO v8 has 24 channels in its first layer and 1 blocks',
        ),
        (lambda s: _without(s, 'bn.weight'), 'and .* more'),
    ],
    ids=[
        'extra-layer',
        'extra-tensor',
        'missing',
        'shape',
        'detection-only',
        'other-model',
        'other-size',
        'many-problems',
    ],
)  # fmt: skip
def test_convert__state_dicts_that_do_not_fit(v8n: dict, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state_dict(change(v8n))
