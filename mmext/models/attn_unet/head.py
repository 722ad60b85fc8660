"""Attention U-Net as a decode head of mmseg: gated skip connections, one logit of the foreground.

Source: Attention U-Net (https://arxiv.org/abs/1804.03999).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmext.models.attn_unet.decoder import AttentionDecoder, DecoderOutputs
from mmext.models.attn_unet.gate import NORM_CFG, fitting_norm
from mmext.models.attn_unet.objective import MatteTruth, matte_accuracy, matte_losses
from mmext.registry import MODELS

BLOCKS = ('plain', 'separable')


@MODELS.register_module()
class AttentionUNetHead(BaseDecodeHead):
    """Decoder with attention gates, and the losses of soft mattes.

    Belongs into `mmext.MatteEncoderDecoder`, which gives the losses their images. Its output has half of the stride of
    the finest map: with maps of strides 2 to 32 that of the image.

    Args:
        in_channels: of the encoder's maps, finest first; strides 2, 4, 8, 16 and 32 as a rule.
        stage_channels: of the decoder's stages, coarsest first, as many as maps.
        gate: config of the gates, `mmext.AttentionGate` or `mmext.SameSizeAttentionGate`.
        block: 'plain' for two 3x3 convolutions in each stage, 'separable' for depthwise-separable ones, which have a
            ninth of the weights.
        num_logits: 1 for the logit of the foreground, 2 for those of background and foreground, whose softmax is alpha.
        threshold: alpha above which a pixel is foreground in `pred_sem_seg` and in the accuracy of the log.
        skip_dropout: share of the channels of each skip connection that are dropped in training.
        centre_dropout: the same for the coarsest map.
        dropout_ratio: the same for the map before the classifier.
        loss_decode: configs of the losses, such as `mmext.MatteBCELoss`.
        aux_loss_decode: configs of the losses of deep supervision: the first stages but one get classifiers of
            their own. None for none.
        aux_weight: weight of deep supervision.
        aux_stages: indices of the stages that have it.
        norm_cfg: config of the norms, SyncBN or GN for fewer than four images on a GPU. Of GN, `num_groups` is an upper
            bound.
        align_corners: of the resizing of logits.
        init_cfg: mmengine init config.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        stage_channels: Sequence[int] = (256, 128, 64, 32, 16),
        *,
        gate: dict[str, Any],
        loss_decode: Sequence[dict[str, Any]],
        block: str = 'plain',
        num_logits: int = 1,
        threshold: float = 0.5,
        skip_dropout: float = 0.1,
        centre_dropout: float = 0.2,
        dropout_ratio: float = 0.0,
        aux_loss_decode: Sequence[dict[str, Any]] | None = None,
        aux_weight: float = 0.4,
        aux_stages: Sequence[int] = (0, 1, 2),
        norm_cfg: dict[str, Any] = NORM_CFG,
        align_corners: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        aux_stages = tuple(aux_stages) if aux_loss_decode else ()
        _check_settings(block, num_logits, threshold, aux_stages, len(stage_channels))
        super().__init__(
            list(in_channels),
            stage_channels[-1],
            num_classes=2,
            out_channels=num_logits,
            threshold=threshold,
            dropout_ratio=dropout_ratio,
            norm_cfg=norm_cfg,
            in_index=list(range(len(in_channels))),
            input_transform='multiple_select',
            loss_decode=list(loss_decode),
            align_corners=align_corners,
            init_cfg=init_cfg or dict(type='Normal', std=0.01, override=dict(name='conv_seg')),
        )
        self.decoder = AttentionDecoder(
            in_channels,
            stage_channels,
            gate=partial(_build_gate, gate, norm_cfg),
            block=partial(_build_block, block, norm_cfg),
            centre=partial(_build_centre, norm_cfg),
            skip_dropout=skip_dropout,
            centre_dropout=centre_dropout,
        )
        self.aux_weight = aux_weight
        self.aux_stages = aux_stages
        self.aux_losses = nn.ModuleList(MODELS.build(loss) for loss in aux_loss_decode or ())
        self.aux_convs = nn.ModuleList(
            nn.Conv2d(stage_channels[stage], num_logits, 1) for stage in self.aux_stages
        )

    def decode(self, features: Sequence[Tensor]) -> DecoderOutputs:
        """Maps and attention of all stages from the encoder's maps, (N, C_i, H_i, W_i) each, finest first."""
        return self.decoder(self._transform_inputs(features))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, num_logits, H, W) from the encoder's maps; H and W are twice the size of the finest."""
        return self.cls_seg(self.decode(features).stages[-1])

    def matte_losses(self, features: Sequence[Tensor], truth: MatteTruth) -> dict[str, Tensor]:
        """Losses of a training step.

        Returns:
            `loss_<x>` of each loss, `acc_matte` in percent and, with deep supervision, `stage_<k>.loss_<x>`.
        """
        stages = self.decode(features).stages
        seg_logits = self.cls_seg(stages[-1])
        options: dict[str, Any] = dict(align_corners=self.align_corners)
        losses = matte_losses(seg_logits, truth, self.loss_decode, **options)
        for stage, conv in zip(self.aux_stages, self.aux_convs, strict=True):
            found = matte_losses(conv(stages[stage]), truth, self.aux_losses, **options)
            for name, value in found.items():
                losses[f'stage_{stage}.{name}'] = self.aux_weight * value
        losses['acc_matte'] = matte_accuracy(seg_logits, truth, self.threshold, **options)
        return losses

    def loss(self, *_: object) -> dict[str, Tensor]:
        """mmseg's loss, which knows neither soft truth nor the images.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "AttentionUNetHead: got a call from mmseg's EncoderDecoder, whose losses see neither alpha nor images. "
            "Expected model=dict(type='mmext.MatteEncoderDecoder', ...)."
        )


def _build_gate(
    gate: dict[str, Any], norm_cfg: dict[str, Any], skip_channels: int, gate_channels: int
) -> nn.Module:
    cfg = dict(norm_cfg=norm_cfg) | gate
    return MODELS.build(cfg | dict(skip_channels=skip_channels, gate_channels=gate_channels))


def _build_block(
    kind: str, norm_cfg: dict[str, Any], in_channels: int, out_channels: int
) -> nn.Module:
    """Two convolutions of 3x3 without bias, each with norm and ReLU."""
    if kind == 'plain':
        norm = fitting_norm(norm_cfg, out_channels)
        return nn.Sequential(
            ConvModule(in_channels, out_channels, 3, padding=1, norm_cfg=norm),
            ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm),
        )
    return nn.Sequential(
        *(
            DepthwiseSeparableConvModule(
                channels,
                out_channels,
                3,
                padding=1,
                dw_norm_cfg=fitting_norm(norm_cfg, channels),
                pw_norm_cfg=fitting_norm(norm_cfg, out_channels),
            )
            for channels in (in_channels, out_channels)
        )
    )


def _build_centre(norm_cfg: dict[str, Any], in_channels: int, out_channels: int) -> nn.Module:
    return ConvModule(in_channels, out_channels, 1, norm_cfg=fitting_norm(norm_cfg, out_channels))


def _check_settings(
    block: str, num_logits: int, threshold: float, aux_stages: Sequence[int], num_stages: int
) -> None:
    if block not in BLOCKS:
        raise ValueError(f'AttentionUNetHead: got block={block!r}, expected one of {BLOCKS}')
    if num_logits not in (1, 2):
        raise ValueError(
            f'AttentionUNetHead: got num_logits={num_logits}, expected 1, or 2 for background and foreground'
        )
    if not 0 < threshold < 1:
        raise ValueError(
            f'AttentionUNetHead: got threshold={threshold}, expected an alpha between 0 and 1'
        )
    if not all(0 <= stage < num_stages - 1 for stage in aux_stages):
        raise ValueError(
            f'AttentionUNetHead: got aux_stages={tuple(aux_stages)}, expected indices from 0 to {num_stages - 2}: '
            'of all stages but the last, which has loss_decode'
        )
