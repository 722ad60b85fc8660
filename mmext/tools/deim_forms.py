"""What the benchmark of DEIMv2 measures: the published sizes in their forms, with random weights, and work for them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmext.models.backbones.dinov3 import ARCHS
from mmext.models.deim.parts import part_configs
from mmext.models.deim.variants import NUM_COCO_CLASSES, VARIANTS, Variant
from mmext.registry import MODELS

# With texts, and the form of the detector alone that they are compared with.
DETECTOR_OF = {'text': 'eval', 'text-deploy': 'deploy'}
FORMS = ('plain', 'port', 'eval', 'deploy', *DETECTOR_OF)
PORTED = tuple(name for name, own in VARIANTS.items() if own.backbone == 'dinov3_sta')
NUM_OBJECTS = 8  # in each image of a training step
TEXT_DIM = 512  # CLIP's
MAX_EMBED_DIMS = 256


class Subject(NamedTuple):
    """What is measured: enough to build it again in another process.

    Attributes:
        variant: name in `VARIANTS`.
        form: one of `FORMS`.
    """

    variant: str
    form: str

    def build(self) -> nn.Module:
        """The model in eval mode, its parameters frozen."""
        torch.manual_seed(0)
        variant = VARIANTS[self.variant]
        if self.form in ('plain', 'port'):
            model = build_port(variant, 'eager' if self.form == 'plain' else 'sdpa')
        elif self.form in DETECTOR_OF:
            model = build_with_texts(variant)
        else:
            model = MODELS.build(model_config(variant))
        model = model.eval().requires_grad_(False)
        if self.form.endswith('deploy'):
            model.switch_to_deploy()  # type: ignore[operator]
        return model

    def make_images(self, count: int = 1) -> torch.Tensor:
        """(count, 3, S, S), normalised."""
        size = VARIANTS[self.variant].input_size
        return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))

    def make_fusion_inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and logits of an image, as the decoder hands them to the fusion."""
        variant = VARIANTS[self.variant]
        shape = (1, variant.num_queries)
        return torch.randn(*shape, variant.decoder_channels), torch.randn(*shape, NUM_COCO_CLASSES)

    def make_training_step(self, num_images: int) -> Callable[[], None]:
        """Forward pass, losses and backward pass; the gradients stay until the next step begins."""
        torch.manual_seed(0)
        model = MODELS.build(model_config(VARIANTS[self.variant])).train()
        images = self.make_images(num_images)
        size = images.shape[-1]
        corners = torch.arange(NUM_OBJECTS)[:, None] * size / (2 * NUM_OBJECTS)
        truth = InstanceData(
            bboxes=torch.cat([corners, corners, corners + size / 4, corners + size / 4], dim=1),
            labels=torch.arange(NUM_OBJECTS),
        )
        samples = [DetDataSample(gt_instances=truth) for _ in range(num_images)]

        def step() -> None:
            model.zero_grad()
            model.parse_losses(model.loss(images, samples))[0].backward()

        return step


def model_config(variant: Variant) -> dict[str, Any]:
    """A detector of one of the published sizes with 80 classes."""
    matcher, weights = 'DEIMMatcher', dict(mal=1.0, bbox=5.0, giou=2.0)
    if variant.encoder == 'hybrid':
        matcher, weights = 'DEIMUnionMatcher', weights | dict(fgl=0.15, ddf=1.5)
    criterion = dict(
        type='mmext.DEIMCriterion',
        matcher=dict(type=f'mmext.{matcher}', change_epoch=100),
        loss_weights=weights,
    )
    return dict(
        type='mmext.DEIM',
        **part_configs(variant, NUM_COCO_CLASSES),
        criterion=criterion,
        test_cfg=dict(max_per_img=300),
    )


def build_with_texts(variant: Variant) -> nn.Module:
    """The detector of `model_config` with a random text for each class.

    Queries and texts are compared in twice as many channels as the decoder has, and at most 256.
    """
    embed_dims = min(2 * variant.decoder_channels, MAX_EMBED_DIMS)
    names = [str(label) for label in range(NUM_COCO_CLASSES)]
    fusion = dict(
        type='mmext.MultimodalFusion',
        num_classes=len(names),
        visual_dim=variant.decoder_channels,
        text_dim=TEXT_DIM,
        embed_dims=embed_dims,
    )
    text = dict(classes=names, embeddings=None)
    config = model_config(variant) | dict(type='mmext.DEIMMultimodal', fusion=fusion, text=text)
    model = MODELS.build(config)
    model.fusion.set_texts(torch.randn(len(names), TEXT_DIM), range(len(names)))
    return model


def build_port(variant: Variant, attention: str) -> nn.Module:
    """The size of the variant in transformers.

    Args:
        variant: one of those with a DINOv3 backbone.
        attention: 'eager' for products and softmax one by one, 'sdpa' for torch's fused attention.
    """
    # Only here: versions of transformers before this port can run everything else.
    from transformers import Deimv2Config, Deimv2ForObjectDetection, DINOv3ViTConfig

    arch = ARCHS[variant.arch]
    channels, num_levels = variant.encoder_channels, len(variant.num_points)
    backbone = DINOv3ViTConfig(  # type: ignore[call-arg]
        image_size=variant.input_size,
        patch_size=16,
        hidden_size=arch.embed_dims,
        num_hidden_layers=12,
        num_attention_heads=arch.embed_dims // 64,
        intermediate_size=arch.mlp_channels,
        num_register_tokens=arch.num_storage_tokens,
        use_gated_mlp=arch.has_gated_mlp,
        out_indices=[index + 1 for index in arch.out_indices],
        apply_layernorm=arch.has_final_norm,
        key_bias=True,
    )
    config = Deimv2Config(  # type: ignore[call-arg]
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        num_labels=NUM_COCO_CLASSES,
        encoder_hidden_dim=channels,
        encoder_in_channels=[channels] * num_levels,
        encoder_ffn_dim=variant.encoder_ffn_channels,
        encoder_has_trailing_conv=variant.block == 'e4',
        # It computes round(hidden_expansion * channels // 2) and round(3 * depth_mult).
        hidden_expansion=(2 * variant.csp_channels + 0.5) / channels,
        depth_mult=variant.num_csp_blocks / 3,
        d_model=variant.decoder_channels,
        decoder_in_channels=[channels] * num_levels,
        decoder_ffn_dim=variant.decoder_ffn_channels,
        decoder_layers=variant.num_decoder_layers,
        decoder_n_points=list(variant.num_points),
        decoder_activation_function='silu',
        num_queries=variant.num_queries,
        reg_scale=variant.reg_scale,
        spatial_tuning_adapter_inplanes=variant.sta_channels,
    )
    config._attn_implementation = attention
    return Deimv2ForObjectDetection(config)
