"""Parity with the published YOLOv8-seg and YOLO11-seg: predictions and training losses.

The numbers in `tests/golden` come from the reference implementation, for weights and inputs that
`tests/reference_numbers.py` makes from names. Decoded predictions hold every 7th prior, prototypes every 4th pixel.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.models.yolo.outputs import decode_boxes, flatten_outputs
from mmext.models.yolo.variants import Variant, part_configs
from mmext.models.yolo.weights import convert_state_dict
from mmext.registry import MODELS
from tests.models.yolo_models import ellipses, head_config
from tests.reference_numbers import named_array, named_weight

GOLDEN = Path(__file__).parents[1] / 'golden'
MODELS_BY_NAME = {'yolov8n-seg': 'v8', 'yolo11n-seg': 'v11'}


class Reference:
    """Our detector with the reference's weights, and the reference's numbers."""

    def __init__(self, name: str) -> None:
        self.numbers = json.loads((GOLDEN / f'{name}.json').read_text())
        self.arrays = np.load(GOLDEN / f'{name}.npz')
        published = {key: named_weight(key, shape) for key, shape in self.numbers['keys'].items()}
        converted, _ = convert_state_dict(published)
        self.detector = build_detector(MODELS_BY_NAME[name])
        self.detector.load_state_dict(converted)
        self.detector.eval()


def build_detector(version: str) -> nn.Module:
    parts = part_configs(Variant(version, 'n', num_classes=80, num_prototypes=32))
    losses = {k: v for k, v in head_config().items() if k.startswith('loss')}
    train_cfg = head_config()['train_cfg']
    parts['bbox_head'].update(losses)
    return MODELS.build(dict(type='mmdet.SingleStageDetector', train_cfg=train_cfg, **parts))


@pytest.fixture(scope='module', params=MODELS_BY_NAME)
def reference(request: pytest.FixtureRequest) -> Reference:
    return Reference(request.param)


def relative_error(value: Tensor, expected: np.ndarray) -> float:
    """Largest difference relative to the spread of the expected values."""
    target = torch.from_numpy(expected)
    return float((value - target).abs().max() / target.std())


@torch.no_grad()
def test_detector__raw_outputs_equal_the_reference(reference: Reference) -> None:
    image = named_array('image', reference.numbers['input']).sigmoid()
    outputs = reference.detector(image, mode='tensor')
    flat = flatten_outputs(outputs)
    head = reference.detector.bbox_head
    bboxes = decode_boxes(flat.box_dists, head._priors(outputs), head.reg_max)
    centres = (bboxes[..., :2] + bboxes[..., 2:]) / 2
    cxcywh = torch.cat([centres, bboxes[..., 2:] - bboxes[..., :2]], dim=-1).transpose(1, 2)
    decoded = reference.arrays['decoded']

    assert [1, 4 + 80 + 32, cxcywh.shape[2]] == reference.numbers['decoded_shape']
    assert list(outputs.prototypes.shape) == reference.numbers['proto_shape']
    assert relative_error(cxcywh[..., ::7], decoded[:, :4]) < 1e-4
    assert relative_error(flat.cls_logits.sigmoid()[..., ::7], decoded[:, 4:84]) < 1e-4
    assert relative_error(flat.coeffs[..., ::7], decoded[:, 84:]) < 1e-4
    assert relative_error(outputs.prototypes[0, :, ::4, ::4], reference.arrays['proto']) < 1e-4


def test_detector__losses_equal_the_reference(reference: Reference) -> None:
    given = reference.numbers['loss_input']
    batch, _, height, width = given['images']
    cxcywh = torch.tensor(given['boxes']) * torch.tensor([width, height, width, height])
    bboxes = torch.cat(
        [cxcywh[:, :2] - cxcywh[:, 2:] / 2, cxcywh[:, :2] + cxcywh[:, 2:] / 2], dim=1
    )
    labels, image_of = torch.tensor(given['labels']), torch.tensor(given['batch_idx'])
    # The reference's masks are drawn at stride 4: each of their pixels becomes a block of 4 x 4.
    masks = ellipses(bboxes, height, width, scale=4).repeat(4, axis=1).repeat(4, axis=2)
    truth = [
        InstanceData(
            bboxes=bboxes[image_of == i],
            labels=labels[image_of == i],
            masks=BitmapMasks(masks[(image_of == i).numpy()], height, width),
        )
        for i in range(batch)
    ]
    outputs = reference.detector(named_array('images', given['images']).sigmoid(), mode='tensor')
    with torch.no_grad():
        losses = reference.detector.bbox_head.loss_by_feat(*outputs, truth, [{}] * batch)

    names = dict(
        loss_bbox='box_loss', loss_mask='seg_loss', loss_cls='cls_loss', loss_dfl='dfl_loss'
    )
    expected = {
        ours: reference.numbers['loss_items'][theirs] * batch for ours, theirs in names.items()
    }
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_detector__number_of_parameters(reference: Reference) -> None:
    # The reference counts the 16 frozen weights of the distance integral.
    num_params = sum(p.numel() for p in reference.detector.parameters()) + 16
    assert num_params == reference.numbers['num_params']
