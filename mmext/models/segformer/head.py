"""The decoder of SegFormer as a decode head of mmseg: a linear layer for each level, and one for all of them.

Source: SegFormer (https://arxiv.org/abs/2105.15203), section 3.2, as published weights have it: levels from the coarsest
to the finest, no norm and no activation between the two linear layers. mmseg's `SegformerHead` is another decoder, with
other weights; see `mmext.FastSegformerHead`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.folding import (
    FoldedLinear,
    Kernel,
    restore_from_deploy,
    switch_to_deploy,
)
from mmext.models.segformer.fusion import (
    as_map,
    as_pixels,
    classify,
    closed_kernel,
    kernel_dtype,
    multiply_kernels,
    open_kernel,
    split_kernel,
    sum_levels,
)
from mmext.registry import MODELS

DROPOUTS = {'Dropout': nn.Dropout, 'Dropout2d': nn.Dropout2d}
NORM_CFG: dict[str, Any] = dict(type='BN')
LOSS: dict[str, Any] = dict(type='mmseg.CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)


@MODELS.register_module()
class SegformerMLPHead(BaseDecodeHead):
    """Two linear layers, a norm and a ReLU, and the classifier; logits at the size of the finest map.

    Nothing stands between the two linear layers, so that they are multiplied before they meet the maps: in each step, or
    once and for all with the norm (`switch_to_deploy`). Outputs and gradients are those of the two layers one after the
    other, and so are the entries of the state dict, in both forms.

    Args:
        in_channels: of the maps, finest first.
        channels: of the decoder; published: 256 with B0 and B1, 768 with B2 to B5.
        num_classes: classes of the ground truth.
        out_channels: logits; None for one of each class, 1 for the foreground of two classes.
        threshold: probability from which a pixel is foreground, with one logit.
        dropout_ratio: share of the values before the classifier that are dropped in training.
        dropout_type: 'Dropout2d' for whole channels (NVlabs), 'Dropout' for single values (transformers).
        norm_cfg: config of the norm, SyncBN for fewer than four images on a GPU.
        in_index: of the encoder's outputs; None for all.
        loss_decode: config of the loss, or several.
        ignore_index: label of pixels without truth.
        sampler: config of mmseg's pixel sampler.
        align_corners: of all resizing.
        init_cfg: mmengine init config.

    Attributes:
        folded: the products with the norm, in deploy form; None in the form that trains.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        num_classes: int,
        out_channels: int | None = None,
        threshold: float | None = None,
        dropout_ratio: float = 0.1,
        dropout_type: str = 'Dropout2d',
        norm_cfg: dict[str, Any] = NORM_CFG,
        in_index: Sequence[int] | None = None,
        loss_decode: dict[str, Any] | Sequence[dict[str, Any]] = LOSS,
        ignore_index: int = 255,
        sampler: dict[str, Any] | None = None,
        align_corners: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        in_index = list(range(len(in_channels)) if in_index is None else in_index)
        _check_settings(in_channels, in_index, dropout_type)
        super().__init__(
            list(in_channels),
            channels,
            num_classes=num_classes,
            out_channels=out_channels,
            threshold=threshold,
            dropout_ratio=dropout_ratio,
            norm_cfg=norm_cfg,
            in_index=in_index,
            input_transform='multiple_select',
            loss_decode=loss_decode,
            ignore_index=ignore_index,
            sampler=sampler,
            align_corners=align_corners,
            init_cfg=init_cfg or dict(type='Normal', std=0.01, override=dict(name='conv_seg')),
        )
        if dropout_ratio > 0:
            self.dropout = DROPOUTS[dropout_type](dropout_ratio)
        self.convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.fusion_conv = ConvModule(
            channels * len(in_channels), channels, 1, norm_cfg=norm_cfg, act_cfg=dict(type='ReLU')
        )
        self.folded: nn.ModuleList | None = None

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, out_channels, H, W) from maps (B, C_i, H_i, W_i), finest first."""
        features = [as_pixels(x) for x in self._transform_inputs(inputs)]  # B x H_i x W_i x C_i
        norm = None
        if self.folded is not None:
            levels = [linear(x) for linear, x in zip(self.folded, features, strict=True)]
        else:
            kernels, norm = self._level_kernels()
            levels = [functional.linear(x, *k) for x, k in zip(features, kernels, strict=True)]
        maps = [as_map(level) for level in levels]  # B x E x H_i x W_i
        fused = sum_levels(maps, mode='bilinear', align_corners=self.align_corners)
        return self.cls_seg(self.fusion_conv.activate(fused if norm is None else norm(fused)))

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Logits (B, out_channels, H, W) from (B, E, H, W), with dropout in training."""
        return classify(feat, self.dropout, self.conv_seg)

    def fold(self) -> nn.ModuleList:
        """One linear layer for each level, which is both of them and the norm.

        Raises:
            ValueError: the norm cannot be folded.
        """
        dtype = self.conv_seg.weight.dtype
        kernels = self._multiply(closed_kernel(self.fusion_conv))
        return nn.ModuleList(FoldedLinear(kernel, dtype) for kernel in kernels).eval()

    def switch_to_deploy(self) -> None:
        """Fold all but the classifier into one linear layer for each level; a second call changes nothing.

        Raises:
            ValueError: in training mode, or the norm cannot be folded.
        """
        switch_to_deploy(self)

    def restore_from_deploy(self) -> None:
        """Bring the decoder back into the form that trains."""
        restore_from_deploy(self)

    def _level_kernels(self) -> tuple[list[Kernel], nn.Module | None]:
        """The kernel of each level for this step, in the precision of the weights, and the norm behind their sum."""
        conv = self.fusion_conv.conv
        # Products of weights in bfloat16 would be off by more than the maps are.
        with torch.autocast(conv.weight.device.type, enabled=False):
            kernel, norm = open_kernel(self.fusion_conv, kernel_dtype(conv))
            kernels = self._multiply(kernel)
        return [Kernel(*(part.to(conv.weight.dtype) for part in k)) for k in kernels], norm

    def _multiply(self, fusion: Kernel) -> list[Kernel]:
        # The last linear layer was trained with the coarsest level in front; the bias may stand with any.
        parts = reversed(split_kernel(fusion, len(self.convs)))
        return [multiply_kernels(part, conv) for part, conv in zip(parts, self.convs, strict=True)]


def _check_settings(in_channels: Sequence[int], in_index: Sequence[int], dropout_type: str) -> None:
    if dropout_type not in DROPOUTS:
        raise ValueError(
            f'SegformerMLPHead: got dropout_type={dropout_type!r}, expected one of {sorted(DROPOUTS)}'
        )
    if len(in_index) != len(in_channels):
        raise ValueError(
            f'SegformerMLPHead: got in_index={list(in_index)} for in_channels={list(in_channels)}, expected an index for '
            'each; leave in_index out for all maps of the encoder'
        )
