"""Every DEIMv2 size and its parts, built from the table, and weights by published names."""

import torch
from torch import nn

from mmext.models.deim.parts import part_configs
from mmext.models.deim.variants import NUM_COCO_CLASSES, VARIANTS, Variant
from mmext.registry import MODELS
from tests.reference_numbers import named_weight

# Entries that keep their initial values in the reference as well.
COMPUTED = ('periods', 'bias_mask', 'up', 'reg_scale')


def backbone_config(variant: Variant) -> dict:
    frozen = dict(frozen_stages=0, freeze_norm=True) if variant is VARIANTS['hgx'] else {}
    return part_configs(variant, NUM_COCO_CLASSES)['backbone'] | frozen


def encoder_config(variant: Variant) -> dict:
    return part_configs(variant, NUM_COCO_CLASSES)['neck']


def decoder_config(variant: Variant) -> dict:
    return part_configs(variant, NUM_COCO_CLASSES)['decoder']


def detector_config(variant: Variant) -> dict:
    """With the losses of the sizes below n, and without a preprocessor: inputs are what the backbone gets."""
    return dict(
        type='mmext.DEIM',
        backbone=backbone_config(variant),
        neck=encoder_config(variant),
        decoder=decoder_config(variant),
        criterion=dict(
            type='mmext.DEIMCriterion',
            matcher=dict(type='mmext.DEIMMatcher', change_epoch=1),
            loss_weights=dict(mal=1.0, bbox=5.0, giou=2.0),
        ),
        test_cfg=dict(max_per_img=300),
    )


def build_backbone(name: str) -> nn.Module:
    return MODELS.build(backbone_config(VARIANTS[name]))


def build_encoder(name: str) -> nn.Module:
    return MODELS.build(encoder_config(VARIANTS[name]))


@torch.no_grad()
def fill_by_name(module: nn.Module, prefix: str) -> nn.Module:
    """Weights from their published names, which are ours behind `prefix`; in eval mode."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not name.endswith(COMPUTED):
            tensor.copy_(named_weight(f'{prefix}{name}', tensor.shape))
    return module.eval()
