"""Hybrid encoder of DEIMv2: self-attention on the coarsest map, then top-down and bottom-up fusion.

Sources: RT-DETR (https://arxiv.org/abs/2304.08069) for the arrangement, DEIMv2
(https://arxiv.org/abs/2509.20787) for the blocks and for fusion by sums.

Shapes: B batch, C channels, H and W the size of a map, N = H W its tokens, w the encoder's width.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.deim.layers import NORM_CFG, ConvNorm, fusion_block_class
from mmext.registry import MODELS

TEMPERATURE = 10000.0


class SelfAttentionLayer(nn.Module):
    """Self-attention and feed-forward network, both with post-norm residual.

    Args:
        embed_dims: w, a multiple of `num_heads`.
        num_heads: Heads of the attention.
        ffn_channels: Hidden channels of the feed-forward network.
    """

    def __init__(self, embed_dims: int, *, num_heads: int, ffn_channels: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dims, num_heads, batch_first=True)
        self.linear1 = nn.Linear(embed_dims, ffn_channels)
        self.linear2 = nn.Linear(ffn_channels, embed_dims)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, N, w) and their position codes (N, w) to tokens (B, N, w)."""
        placed = tokens + positions
        attended, _ = self.self_attn(placed, placed, tokens, need_weights=False)
        tokens = self.norm1(tokens + attended)
        hidden = functional.gelu(self.linear1(tokens))
        return self.norm2(tokens + self.linear2(hidden))


class MapAttention(nn.Module):
    """Self-attention between all cells of a map ("AIFI"), (B, w, H, W) -> (B, w, H, W).

    Args:
        embed_dims: w, a multiple of `num_heads` and of 4.
        num_heads: Heads of the attention.
        ffn_channels: Hidden channels of the feed-forward network.
    """

    def __init__(self, embed_dims: int, *, num_heads: int, ffn_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [SelfAttentionLayer(embed_dims, num_heads=num_heads, ffn_channels=ffn_channels)]
        )

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        positions = get_position_codes(height, width, channels, device=x.device).to(x.dtype)
        tokens = x.flatten(2).transpose(1, 2)  # B x N x w
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return tokens.transpose(1, 2).unflatten(2, (height, width))


def get_position_codes(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """`position_codes`, kept for the sizes seen last."""
    if torch.compiler.is_compiling():  # tracers' tensors must not outlive the trace
        return position_codes(height, width, channels, device=device)
    return _kept_position_codes(height, width, channels, device)


@lru_cache(maxsize=32)
def _kept_position_codes(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    # Tensors born in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        return position_codes(height, width, channels, device=device)


def position_codes(
    height: int, width: int, channels: int, *, device: torch.device | None = None
) -> Tensor:
    """Sines and cosines of two coordinates of each cell, rows first.

    As in the published models, the coordinates of cell k are k // height and k % height. That is
    (row, column) in square maps only; in others two cells never share a code either, but the
    neighbourhood is another. Dividing by the width would be right, and would change the outputs of
    published weights on images that are not square.

    Args:
        height: H.
        width: W.
        channels: w, a multiple of 4.
        device: Where the codes are made.

    Returns:
        (N, w) float32: sin and cos of the first coordinate, sin and cos of the second, w / 4 each.
    """
    quarter = channels // 4
    exponents = torch.arange(quarter, dtype=torch.float32, device=device) / quarter
    frequencies = TEMPERATURE**-exponents
    cells = torch.arange(height * width, device=device)
    first = (cells // height)[:, None] * frequencies
    second = (cells % height)[:, None] * frequencies
    return torch.cat((first.sin(), first.cos(), second.sin(), second.cos()), dim=1)


class Downsample(nn.Module):
    """1x1, then depthwise 3x3 convolution of stride 2, (B, C, H, W) to half the size, rounded up."""

    def __init__(self, channels: int, *, norm_cfg: dict[str, Any] = NORM_CFG) -> None:
        super().__init__()
        self.cv1 = ConvNorm(channels, channels, norm_cfg=norm_cfg)
        self.cv2 = ConvNorm(
            channels, channels, kernel_size=3, stride=2, groups=channels, norm_cfg=norm_cfg
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(self.cv1(x))


@MODELS.register_module()
class HybridEncoder(BaseModule):
    """Attention on the coarsest map, then fusion of all maps by sums, down and up again.

    `lateral_convs` and `fpn_blocks` stand in the order in which they run, from the coarsest map to
    the finest; `downsample_convs` and `pan_blocks` likewise, back.

    Args:
        in_channels: Channels of the backbone's maps, the finest first. A map that already has
            `out_channels` is taken as it is; others get a 1x1 convolution.
        out_channels: Channels w of all maps, a multiple of `num_heads` and of 4.
        block: Fusion block, 'e4' or 'e5'.
        csp_channels: Channels inside the fusion blocks.
        num_csp_blocks: `VGGBlock`s of each chain inside the fusion blocks.
        ffn_channels: Hidden channels of the attention's feed-forward network.
        num_heads: Heads of the attention.
        norm_cfg: Config of the norm layers of the convolutions.
        init_cfg: mmengine init config.

    Raises:
        ValueError: Fewer than two maps, unknown block, `out_channels` that cannot be divided.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        block: str,
        csp_channels: int,
        num_csp_blocks: int,
        ffn_channels: int,
        num_heads: int = 8,
        norm_cfg: dict[str, Any] = NORM_CFG,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_arguments(in_channels, out_channels, num_heads)
        block_class = fusion_block_class(block, 'HybridEncoder')
        steps = range(len(in_channels) - 1)

        def fusion_block() -> nn.Module:
            return block_class(
                out_channels, csp_channels, num_blocks=num_csp_blocks, norm_cfg=norm_cfg
            )

        self.input_proj = nn.ModuleList(
            nn.Identity()
            if channels == out_channels
            else ConvNorm(channels, out_channels, norm_cfg=norm_cfg)
            for channels in in_channels
        )
        self.encoder = nn.ModuleList(
            [MapAttention(out_channels, num_heads=num_heads, ffn_channels=ffn_channels)]
        )
        self.lateral_convs = nn.ModuleList(
            ConvNorm(out_channels, out_channels, norm_cfg=norm_cfg) for _ in steps
        )
        self.fpn_blocks = nn.ModuleList(fusion_block() for _ in steps)
        # One deeper than needed, as in the published weights: `downsample_convs.i.0.cv1`.
        self.downsample_convs = nn.ModuleList(
            nn.Sequential(Downsample(out_channels, norm_cfg=norm_cfg)) for _ in steps
        )
        self.pan_blocks = nn.ModuleList(fusion_block() for _ in steps)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fused maps of the sizes of the inputs.

        Args:
            feats: One (B, C, H, W) per level, the finest first, each half as large as the one before,
                rounded up.

        Returns:
            One (B, w, H, W) per level.
        """
        maps = [project(feat) for project, feat in zip(self.input_proj, feats, strict=True)]
        maps[-1] = self.encoder[0](maps[-1])
        return self._bottom_up(self._top_down(maps))

    def _top_down(self, maps: list[Tensor]) -> list[Tensor]:
        """Fuse coarse maps into finer ones; (B, w, H, W) each, the finest first, before and after."""
        coarse = maps[-1]
        fused = []
        for lateral, block, fine in zip(
            self.lateral_convs, self.fpn_blocks, reversed(maps[:-1]), strict=True
        ):
            # What goes down is also what the way up finds at this level.
            coarse = lateral(coarse)
            fused.append(coarse)
            # To the size of the finer map: twice as large, or one less where that is odd.
            raised = functional.interpolate(coarse, size=fine.shape[2:], mode='nearest')
            coarse = block(raised + fine)
        return [*fused, coarse][::-1]

    def _bottom_up(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        """Fuse fine maps into coarser ones; (B, w, H, W) each, the finest first, before and after."""
        fused = [maps[0]]
        for downsample, block, coarse in zip(
            self.downsample_convs, self.pan_blocks, maps[1:], strict=True
        ):
            fused.append(block(downsample(fused[-1]) + coarse))
        return tuple(fused)


def _check_arguments(in_channels: Sequence[int], out_channels: int, num_heads: int) -> None:
    if len(in_channels) < 2:
        raise ValueError(
            f'HybridEncoder: got in_channels={list(in_channels)}, expected two maps or more. Name '
            'more out_indices of the backbone, or take mmext.LiteEncoder for one map.'
        )
    if out_channels % num_heads or out_channels % 4:
        raise ValueError(
            f'HybridEncoder: got out_channels={out_channels}, expected a multiple of 4 and of '
            f'num_heads={num_heads}. Change one of them.'
        )
