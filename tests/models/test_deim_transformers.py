"""The key map of the port in transformers: under converted weights, what the port computes alike is equal.

Not compared is what it computes otherwise: selection of queries, perceptrons with ReLU, positions of the queries.
"""

import pytest
import torch
from torch import nn
from transformers import Deimv2Config, Deimv2ForObjectDetection

from mmext.models.backbones.hgnetv2 import ARCHS
from mmext.models.deim.cross_attention import split_heads
from mmext.models.deim.parts import part_configs
from mmext.models.deim.variants import VARIANTS, Variant
from mmext.models.deim.weights import convert_state_dict
from mmext.registry import MODELS
from tests.reference_numbers import named_array, named_weight

pytestmark = pytest.mark.slow
NUM_CLASSES = 4
# Entries that keep their initial values.
COMPUTED = ('num_points_scale', 'up', 'reg_scale')


def backbone_config(variant: Variant) -> dict:
    if variant.backbone == 'dinov3_sta':
        return dict(
            model_type='dinov3_vit',
            hidden_size=384,
            intermediate_size=1536,
            num_attention_heads=6,
            num_register_tokens=4,
            layer_norm_eps=1e-5,
            out_indices=[6, 9, 12],  # theirs begin with the stem
        )
    arch = ARCHS[variant.arch]
    stages = arch.stages
    outputs = [stage.out_channels for stage in stages]
    last = len(stages)
    return dict(
        model_type='hgnet_v2',
        stem_channels=[3, *arch.stem_channels],
        stage_in_channels=[arch.stem_channels[1], *outputs[:-1]],
        stage_mid_channels=[stage.mid_channels for stage in stages],
        stage_out_channels=outputs,
        stage_num_blocks=[stage.num_blocks for stage in stages],
        stage_downsample=[False] + [True] * (last - 1),
        stage_downsample_strides=[2] * last,
        stage_light_block=[stage.light for stage in stages],
        stage_kernel_size=[stage.kernel_size for stage in stages],
        stage_numb_of_layers=[stage.num_layers for stage in stages],
        use_learnable_affine_block=arch.use_lab,
        hidden_sizes=outputs,
        depths=[stage.num_blocks for stage in stages],
        out_indices=list(range(last - len(variant.backbone_channels) + 1, last + 1)),
    )


def port_config(variant: Variant) -> Deimv2Config:
    width, num_levels = variant.encoder_channels, len(variant.strides)
    num_maps = len(variant.backbone_channels)
    return Deimv2Config(
        backbone_config=backbone_config(variant),
        num_labels=NUM_CLASSES,
        encoder_type=variant.encoder,
        encoder_hidden_dim=width,
        encoder_in_channels=list(variant.backbone_channels),
        feat_strides=list(variant.strides[:num_maps]),
        encoder_ffn_dim=variant.encoder_ffn_channels,
        encode_proj_layers=[num_maps - 1],
        encoder_has_trailing_conv=variant.block == 'e4',
        # They take the floor of half the product.
        hidden_expansion=(2 * variant.csp_channels + 0.5) / width,
        depth_mult=variant.num_csp_blocks / 3,
        spatial_tuning_adapter_inplanes=variant.sta_channels,
        d_model=variant.decoder_channels,
        decoder_in_channels=[width] * num_levels,
        num_feature_levels=num_levels,
        decoder_n_points=list(variant.num_points),
        decoder_ffn_dim=variant.decoder_ffn_channels,
        decoder_layers=variant.num_decoder_layers,
        use_gateway=variant.gated,
        share_bbox_head=variant.shares_bbox_head,
        reg_scale=variant.reg_scale,
    )


@torch.no_grad()
def make_port(variant: Variant) -> nn.Module:
    port = Deimv2ForObjectDetection(port_config(variant)).eval()
    for name, tensor in port.state_dict().items():
        if tensor.is_floating_point() and not name.endswith(COMPUTED):
            tensor.copy_(named_weight(name, tensor.shape))
    port.model.enc_output[0].weight.copy_(torch.eye(variant.decoder_channels))
    port.model.enc_output[0].bias.zero_()
    return port


def make_own(variant: Variant) -> nn.ModuleDict:
    configs = part_configs(variant, NUM_CLASSES)
    return nn.ModuleDict({name: MODELS.build(config) for name, config in configs.items()}).eval()


def assert_maps_equal(maps: tuple, expected: list) -> None:
    for own, theirs in zip(maps, expected, strict=True):
        assert own.shape == theirs.shape
        tolerance = 1e-4 * max(1.0, float(theirs.std()))
        torch.testing.assert_close(own, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize('name', ['atto', 'n', 'l'])
@torch.no_grad()
def test_convert__port_computes_the_same(name: str) -> None:
    variant = VARIANTS[name]
    port, own = make_port(variant), make_own(variant)
    converted, report = convert_state_dict(port.state_dict())
    own.load_state_dict(converted)
    assert (report.detected.name, report.detected.num_classes) == (name, NUM_CLASSES)
    assert all('enc_output' in entry for entry in report.ignored)

    image = named_array('image', (1, 3, 128, 128))
    maps = own['neck'](own['backbone'](image))
    assert_maps_equal(maps, port.model.encoder(port.model.conv_encoder(image)).feature_maps)

    width = variant.decoder_channels
    queries, position = named_array('q', (1, 7, width)), named_array('p', (1, 7, width))
    boxes = named_array('boxes', (1, 7, 4)).sigmoid()
    sizes = [tuple(x.shape[2:]) for x in maps]
    theirs, ours = port.model.decoder, own['decoder'].decoder
    for layer, own_layer in zip(theirs.layers, ours.layers, strict=True):
        expected = layer(
            queries,
            position_embeddings=position,
            reference_points=boxes[:, :, None],
            spatial_shapes=torch.tensor(sizes),
            spatial_shapes_list=sizes,
            encoder_hidden_states=torch.cat([x.flatten(2) for x in maps], dim=2).mT,
        )
        queries = own_layer(queries, position, boxes=boxes, value_maps=split_heads(maps, 8))
        torch.testing.assert_close(queries, expected, rtol=0, atol=1e-4)
    for head, own_head in zip(theirs.class_embed, own['decoder'].dec_score_head, strict=True):
        torch.testing.assert_close(own_head(queries), head(queries), rtol=0, atol=1e-5)
