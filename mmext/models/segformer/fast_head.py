"""mmseg's `SegformerHead` in a third of the multiplications, with the same weights and the same logits.

mmseg's decoder has a norm and a ReLU for each level (the paper's has not, see `mmext.SegformerMLPHead`), which must stand
before the resizing. The convolution of the concatenation need not stand behind it: it is applied to each level at its own
resolution, and the results are resized and added.
"""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import SegformerHead
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
    open_kernel,
    split_kernel,
    sum_levels,
)
from mmext.registry import MODELS


@MODELS.register_module()
class FastSegformerHead(SegformerHead):
    """Drop-in for mmseg's `SegformerHead`: settings, entries of the state dict and outputs are the same.

    Settings are those of `SegformerHead`: `in_channels`, `in_index`, `channels`, `num_classes`, `norm_cfg`,
    `interpolate_mode` and what all decode heads have.

    Attributes:
        folded: what stands for the levels in deploy form; None in the form that trains.
    """

    def __init__(self, interpolate_mode: str = 'bilinear', **settings: Any) -> None:
        # What mmseg adds to its decode heads shall work here too: nothing is listed, and mmseg checks the names.
        super().__init__(interpolate_mode, **settings)
        self.folded: nn.ModuleList | None = None

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, out_channels, H, W) from maps (B, C_i, H_i, W_i), finest first."""
        features = [as_pixels(x) for x in self._transform_inputs(inputs)]  # B x H_i x W_i x C_i
        norm = None
        if self.folded is not None:
            levels = [level(x) for level, x in zip(self.folded, features, strict=True)]
        else:
            kernel, norm = _kernel_and_norm(self.fusion_conv)
            kernels = split_kernel(kernel, len(features))
            projected = [_project(unit, x) for unit, x in zip(self.convs, features, strict=True)]
            levels = [functional.linear(x, *k) for x, k in zip(projected, kernels, strict=True)]
        maps = [as_map(level) for level in levels]  # B x E x H_i x W_i
        fused = sum_levels(maps, mode=self.interpolate_mode, align_corners=self.align_corners)
        return self.cls_seg(self.fusion_conv.activate(fused if norm is None else norm(fused)))

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Logits (B, out_channels, H, W) from (B, E, H, W), with dropout in training."""
        return classify(feat, self.dropout, self.conv_seg)

    def fold(self) -> nn.ModuleList:
        """For each level a linear layer, the activation, and its part of the layer that joins the levels.

        Raises:
            ValueError: a norm cannot be folded.
        """
        dtype = self.conv_seg.weight.dtype
        parts = split_kernel(closed_kernel(self.fusion_conv), len(self.convs))
        return nn.ModuleList(
            nn.Sequential(
                FoldedLinear(closed_kernel(unit), dtype), unit.activate, FoldedLinear(part, dtype)
            )
            for unit, part in zip(self.convs, parts, strict=True)
        ).eval()

    def switch_to_deploy(self) -> None:
        """Fold norms into convolutions; a second call changes nothing.

        Raises:
            ValueError: in training mode, or a norm cannot be folded.
        """
        switch_to_deploy(self)

    def restore_from_deploy(self) -> None:
        """Bring the decoder back into the form that trains."""
        restore_from_deploy(self)


def _project(unit: ConvModule, x: Tensor) -> Tensor:
    """One level (B, H_i, W_i, C_i) to (B, H_i, W_i, E), with norm and activation."""
    kernel, norm = _kernel_and_norm(unit)
    x = functional.linear(x, *kernel)
    return unit.activate(x if norm is None else as_pixels(norm(as_map(x))))


def _kernel_and_norm(unit: ConvModule) -> tuple[Kernel, nn.Module | None]:
    dtype = unit.conv.weight.dtype
    kernel, norm = open_kernel(unit, kernel_dtype(unit.conv))
    return Kernel(kernel.weight.to(dtype), kernel.bias.to(dtype)), norm
