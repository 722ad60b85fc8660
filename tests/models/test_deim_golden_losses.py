"""Every loss of a DEIMv2 training step against the reference implementation, from the images on.

`tests/golden/deim_losses.json` holds the objects of two images and the weighted losses of an epoch before the matcher's
change and of the first epoch after it, for weights and images that `tests/reference_numbers.py` makes from names,
without denoising and with batch norm in evaluation.
"""

import json
from pathlib import Path

import pytest
import torch

from mmext.models.deim.criterion import DEIMCriterion
from mmext.models.deim.outputs import DecoderOutputs, ImageTargets
from mmext.models.deim.variants import VARIANTS
from mmext.registry import MODELS
from tests.models.deim_models import build_backbone, build_encoder, decoder_config, fill_by_name
from tests.reference_numbers import named_array

GOLDEN = Path(__file__).parents[1] / 'golden' / 'deim_losses.json'
BOX_WEIGHTS = dict(mal=1.0, bbox=5.0, giou=2.0)
CRITERIA = dict(
    atto=dict(
        type='mmext.DEIMCriterion',
        matcher=dict(type='mmext.DEIMMatcher', change_epoch=450),
        loss_weights=BOX_WEIGHTS,
    ),
    s=dict(
        type='mmext.DEIMCriterion',
        matcher=dict(type='mmext.DEIMUnionMatcher', change_epoch=100),
        loss_weights=BOX_WEIGHTS | dict(fgl=0.15, ddf=1.5),
    ),
)


@torch.no_grad()
def training_outputs(name: str, image_shape: list[int]) -> DecoderOutputs:
    backbone = fill_by_name(build_backbone(name), 'backbone.')
    encoder = fill_by_name(build_encoder(name), 'encoder.')
    decoder = fill_by_name(MODELS.build(decoder_config(VARIANTS[name])), 'decoder.').train()
    return decoder(encoder(backbone(named_array('images', image_shape))))


@pytest.mark.parametrize('name', ['atto', pytest.param('s', marks=pytest.mark.slow)])
def test_criterion__losses_equal_the_reference_before_and_after_the_change(name: str) -> None:
    numbers = json.loads(GOLDEN.read_text())[name]
    outputs = training_outputs(name, numbers['input'])
    targets = [
        ImageTargets(torch.tensor(own['labels']), torch.tensor(own['boxes']))
        for own in numbers['targets']
    ]
    criterion: DEIMCriterion = MODELS.build(CRITERIA[name])
    for epoch, expected in numbers['losses'].items():
        losses = criterion(outputs, targets, epoch=int(epoch))
        values = {key: value.item() for key, value in losses.items()}
        assert values == pytest.approx(expected, rel=1e-4)
