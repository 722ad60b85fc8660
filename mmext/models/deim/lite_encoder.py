"""Lite encoder of the DEIMv2 sizes atto, femto and pico: two fused maps from one, without attention.

Source: DEIMv2 (https://arxiv.org/abs/2509.20787), section 3.3.

Shapes: B batch, C channels, H and W the size of the backbone's map.
"""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.folding import fold_sequential
from mmext.models.deim.layers import NORM_CFG, ConvNorm, ConvNormAct, fusion_block_class
from mmext.registry import MODELS


class GlobalFusion(nn.Module):
    """1x1 convolution of a map to which its own mean was added, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, *, norm_cfg: dict[str, Any] = NORM_CFG) -> None:
        super().__init__()
        self.cv = ConvNormAct(channels, channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv(x + x.mean(dim=(2, 3), keepdim=True))


@MODELS.register_module()
class LiteEncoder(BaseModule):
    """Makes a map of half the size by pooling, then fuses both top-down and bottom-up.

    Args:
        in_channels: Channels of the backbone's map; a list of one number is understood as well.
        out_channels: Channels w of both maps.
        block: Fusion block, 'e4' or 'e5'.
        csp_channels: Channels inside the fusion blocks.
        num_csp_blocks: `VGGBlock`s of each chain inside the fusion blocks.
        norm_cfg: Config of the norm layers.
        init_cfg: mmengine init config.

    Raises:
        ValueError: More or fewer than one input, unknown block.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        block: str,
        csp_channels: int,
        num_csp_blocks: int,
        norm_cfg: dict[str, Any] = NORM_CFG,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(in_channels) != 1:
            raise ValueError(
                f'LiteEncoder: got in_channels={list(in_channels)}, expected one map (stride 16). '
                'Set the out_indices of the backbone to one stage, or take mmext.HybridEncoder.'
            )
        block_class = fusion_block_class(block, 'LiteEncoder')

        def fusion_block() -> nn.Module:
            return block_class(
                out_channels, csp_channels, num_blocks=num_csp_blocks, norm_cfg=norm_cfg
            )

        self.input_proj = nn.ModuleList([ConvNorm(in_channels[0], out_channels, norm_cfg=norm_cfg)])
        self.down_sample1 = _downsample(out_channels, norm_cfg)
        self.down_sample2 = _downsample(out_channels, norm_cfg)
        self.bi_fusion = GlobalFusion(out_channels, norm_cfg=norm_cfg)
        self.fpn_block = fusion_block()
        self.pan_block = fusion_block()
        self.folded: nn.ModuleList | None = None

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Two fused maps.

        Args:
            feats: One map (B, C, H, W).

        Returns:
            (B, w, H, W) and (B, w, ceil(H / 2), ceil(W / 2)).
        """
        down_sample1, down_sample2 = self.folded or (self.down_sample1, self.down_sample2)
        fine = self.input_proj[0](feats[0])
        coarse = self.bi_fusion(down_sample1(fine))

        # To the size of the finer map: twice as large, or one less where that is odd.
        raised = functional.interpolate(coarse, size=fine.shape[2:], mode='nearest')
        fine = self.fpn_block(fine + raised)
        coarse = self.pan_block(coarse + down_sample2(fine))
        return fine, coarse

    def fold(self) -> nn.ModuleList:
        return nn.ModuleList(map(fold_sequential, (self.down_sample1, self.down_sample2))).eval()


def _downsample(channels: int, norm_cfg: dict[str, Any]) -> nn.Sequential:
    """Average of 3x3 cells, 1x1 convolution; (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
    return nn.Sequential(
        # Zeros beyond the border count, as in the published models: border cells are weaker.
        nn.AvgPool2d(kernel_size=3, stride=2, padding=1, count_include_pad=True),
        nn.Conv2d(channels, channels, kernel_size=1, bias=False),
        build_norm_layer(norm_cfg, channels)[1],
        nn.SiLU(),
    )
