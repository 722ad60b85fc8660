"""The light forms of the Attention U-Net that configs/attn_unet names have less than three million parameters."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmext.apis import init_model

LIGHT = (
    Path(__file__).parents[2]
    / 'configs/attn_unet/attn-unet_light_1xb8-150e_person-parsing-256x256.py'
)
# As the docstring of the config says, for phones.
MOBILE = {
    'backbone': {'_delete_': True, 'type': 'MobileNetV2', 'out_indices': (0, 1, 2, 4, 6)},
    'decode_head': {'in_channels': (16, 24, 32, 96, 320), 'block': 'separable'},
}


@pytest.mark.parametrize('change', [{}, MOBILE], ids=['resnet', 'mobilenet'])
def test_light_model__is_small_and_gives_one_logit_a_pixel(change):
    config = Config.fromfile(LIGHT)
    config.merge_from_dict({'model': change})
    model = init_model(config).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) < 3_000_000
    with torch.inference_mode():
        logits = model(torch.rand(1, 3, 96, 64), mode='tensor')
    assert logits.shape == (1, 1, 96, 64)
    assert logits.isfinite().all()
