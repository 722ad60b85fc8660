"""Parity of whole DEIMv2 networks with the reference implementation, from the image to logits and boxes.

`tests/golden/deim_decoder.json` holds the decoder's state-dict entries and every 20th query with every 8th class, for
weights and an image that `tests/reference_numbers.py` makes from names. The reference had no gates there and one box
head for all layers in every size, unlike the published sizes n, s and l; `test_deim_decoder.py` covers those two.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmext.models.deim.variants import VARIANTS, Variant
from mmext.registry import MODELS
from tests.models.deim_models import decoder_config, detector_config, fill_by_name
from tests.reference_numbers import named_array

GOLDEN = Path(__file__).parents[1] / 'golden' / 'deim_decoder.json'
# Depend on the size of the image and are made when it is known.
NOT_KEPT = {'anchors', 'valid_mask'}
SLOW = pytest.mark.slow


@pytest.fixture(scope='module')
def numbers() -> dict[str, dict[str, Any]]:
    return json.loads(GOLDEN.read_text())


def as_in_golden(name: str) -> Variant:
    return VARIANTS[name]._replace(gated=False, shares_bbox_head=True)


@pytest.mark.parametrize(
    'name', ['atto', 'n', pytest.param('s', marks=SLOW), pytest.param('l', marks=SLOW)]
)
@torch.no_grad()
def test_detector__outputs_equal_the_reference(name: str, numbers: dict[str, Any]) -> None:
    given = numbers[name]
    detector = MODELS.build(detector_config(as_in_golden(name))).eval()
    for published, own in (('backbone', 'backbone'), ('encoder', 'neck'), ('decoder', 'decoder')):
        fill_by_name(getattr(detector, own), f'{published}.')
    outputs = detector(named_array('image', given['input']), mode='tensor')
    assert outputs.boxes.shape == (1, given['num_queries'], 4)

    logits, boxes = torch.tensor(given['logits']), torch.tensor(given['boxes'])
    logit_errors = (outputs.logits[0, :, None, ::8] - logits).abs().amax(dim=-1)  # query x row
    box_errors = (outputs.boxes[0, :, None] - boxes).abs().amax(dim=-1)
    # Queries of nearly equal score may have swapped places.
    own = logit_errors.argmin(dim=0)
    rows = torch.arange(len(boxes))
    assert len(own.unique()) == len(own)
    assert logit_errors[own, rows].max() < 1e-4
    assert box_errors[own, rows].max() < 1e-5


@pytest.mark.parametrize('name', ['atto', 'n', 's', 'l'])
def test_decoder__entries_equal_the_reference(name: str, numbers: dict[str, Any]) -> None:
    decoder = MODELS.build(decoder_config(as_in_golden(name)))
    own = {key: list(value.shape) for key, value in decoder.state_dict().items()}
    expected = {k: s for k, s in numbers[name]['keys'].items() if k not in NOT_KEPT}
    assert own == expected


@pytest.mark.parametrize('name', VARIANTS)
def test_detector__number_of_parameters_and_entries(name: str) -> None:
    variant = VARIANTS[name]
    with torch.device('meta'):
        detector = MODELS.build(detector_config(variant))
    num_params = sum(p.numel() for p in detector.parameters())
    num_keys = len(detector.state_dict()) + len(NOT_KEPT)
    if name == 'hgx':  # its frozen norms had buffers instead of weights, and no counter
        norms = [m for m in detector.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        num_params -= sum(2 * norm.num_features for norm in norms)
        num_keys -= len(norms)
    assert num_params == variant.num_params
    assert num_keys == variant.num_keys
