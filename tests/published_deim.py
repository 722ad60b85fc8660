"""State dicts like those in published DEIMv2 files, with random numbers."""

import functools

import torch
from torch import Tensor, nn

from mmext.models.deim.variants import VARIANTS
from mmext.registry import MODELS
from tests.models.deim_models import backbone_config, decoder_config, encoder_config


@functools.cache
def entries(name: str, num_classes: int) -> dict[str, Tensor]:
    """Names, shapes and types of the published training form, and which entries are one tensor, without numbers."""
    variant = VARIANTS[name]
    with torch.device('meta'):
        network = nn.ModuleDict(
            dict(
                backbone=MODELS.build(backbone_config(variant)),
                encoder=MODELS.build(encoder_config(variant)),
                decoder=MODELS.build({**decoder_config(variant), 'num_classes': num_classes}),
            )
        )
    state = network.state_dict(keep_vars=True)
    if name == 'hgx':
        state = {
            n: t
            for n, t in state.items()
            if not (n.startswith('backbone.') and n.endswith('num_batches_tracked'))
        }
    return state


def published_state_dict(name: str, *, num_classes: int = 80, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the published names, aliases and tables of anchors included."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[int, Tensor] = {}
    state = {}
    for entry, tensor in entries(name, num_classes).items():
        key = id(tensor)
        if key not in made and tensor.is_floating_point():
            made[key] = torch.rand(tensor.shape, generator=generator)
        state[entry] = made.setdefault(key, torch.tensor(7))
    variant = VARIANTS[name]
    for prefix in ('decoder.', 'decoder.decoder.'):
        state[f'{prefix}up'] = torch.tensor([0.5])
        state[f'{prefix}reg_scale'] = torch.tensor([variant.reg_scale])
    places = sum((variant.input_size // stride) ** 2 for stride in variant.strides)
    state['decoder.anchors'] = torch.zeros(1, places, 4)
    state['decoder.valid_mask'] = torch.ones(1, places, 1, dtype=torch.bool)
    return state
