"""Mix Transformer, the encoder of SegFormer, at the sizes B0 to B5.

Source: SegFormer (https://arxiv.org/abs/2105.15203). Entries of the state dict have the names that they have in mmseg's
`MixVisionTransformer`, and settings too; a pretrained file is given as `checkpoint` instead of `init_cfg`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.models.backbones.mit_blocks import MixBlock, PatchEmbedding
from mmext.models.backbones.pretrained import (
    fill_backbone,
    refuse_pretrained,
    warn_of_random_weights,
)
from mmext.models.common.mit_names import detect_naming, take_encoder
from mmext.models.common.weight_files import read_weight_file
from mmext.registry import MODELS


@MODELS.register_module()
class MixVisionTransformer(BaseModule):
    """Four stages of patches, blocks of attention and feed-forward networks, and a norm.

    The published sizes differ in two settings: `embed_dims` is 32 for B0 and 64 for B1 to B5, `num_layers` is (2, 2, 2,
    2) for B0 and B1, (3, 4, 6, 3) for B2, (3, 4, 18, 3) for B3, (3, 8, 27, 3) for B4 and (3, 6, 40, 3) for B5.

    Published weights were trained with different epsilons of the norms, and are a little worse with others:

        NVlabs          patch_eps=1e-5, block_eps=1e-6, stage_eps=1e-6
        mmseg           1e-6 each
        transformers    1e-5 each

    Args:
        in_channels: of the image.
        embed_dims: channels of a head; a stage has `num_heads` times as many.
        num_stages: length of the settings that have a value for each stage.
        num_layers: blocks of each stage.
        num_heads: heads of each stage.
        patch_sizes: odd sides of the patches.
        strides: from one patch to the next.
        sr_ratios: how much smaller the map of keys is on each side.
        out_indices: stages whose maps are returned.
        mlp_ratio: hidden channels of feed-forward networks for each of their input.
        qkv_bias: whether the projections of attention have a bias.
        drop_rate: dropout behind attention and linear layers.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block; it grows from 0 in even steps.
        patch_eps: epsilon of the norms of patches and of reduced keys.
        block_eps: epsilon of the norms of blocks.
        stage_eps: epsilon of the norm that ends a stage.
        with_cp: whether activations inside of blocks are computed again in the backward pass, to save memory.
        checkpoint: file of weights that were trained before, of NVlabs, mmseg or transformers, of the encoder or a
            whole model, read by `init_weights`, which mmengine calls before training and not before testing. None leaves
            random weights, unless a checkpoint of the whole model follows.
        init_cfg: mmengine init config; not 'Pretrained', see `checkpoint`.

    Attributes:
        out_channels: of each output.

    Raises:
        ValueError: settings do not fit each other, or `init_cfg` is of type 'Pretrained'.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 32,
        *,
        num_stages: int = 4,
        num_layers: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        patch_sizes: Sequence[int] = (7, 3, 3, 3),
        strides: Sequence[int] = (4, 2, 2, 2),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        patch_eps: float = 1e-6,
        block_eps: float = 1e-6,
        stage_eps: float = 1e-6,
        with_cp: bool = False,
        checkpoint: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        refuse_pretrained(init_cfg)
        super().__init__(init_cfg)
        by_stage = dict(
            num_layers=num_layers,
            num_heads=num_heads,
            patch_sizes=patch_sizes,
            strides=strides,
            sr_ratios=sr_ratios,
        )
        _check_settings(num_stages, by_stage, out_indices)
        self.out_indices = tuple(out_indices)
        self.checkpoint = checkpoint
        widths = [embed_dims * heads for heads in num_heads]
        self.out_channels = tuple(widths[index] for index in self.out_indices)
        drop_paths = iter(np.linspace(0, drop_path_rate, sum(num_layers)).tolist())
        self.layers = nn.ModuleList()
        for stage, width in enumerate(widths):
            patches = PatchEmbedding(
                widths[stage - 1] if stage else in_channels,
                width,
                patch_sizes[stage],
                strides[stage],
                eps=patch_eps,
            )
            blocks = nn.ModuleList(
                MixBlock(
                    width,
                    num_heads[stage],
                    reduction=sr_ratios[stage],
                    hidden_channels=mlp_ratio * width,
                    qkv_bias=qkv_bias,
                    dropout=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=next(drop_paths),
                    with_cp=with_cp,
                    eps=block_eps,
                    reduction_eps=patch_eps,
                )
                for _ in range(num_layers[stage])
            )
            self.layers.append(nn.ModuleList([patches, blocks, nn.LayerNorm(width, stage_eps)]))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H_i, W_i) of an image (B, in_channels, H, W), finest first: strides 4, 8, 16 and 32."""
        outputs = []
        for index, stage in enumerate(self.layers):
            patches, blocks, norm = cast(nn.ModuleList, stage)
            x = patches(x)  # B x H_i x W_i x C_i
            for block in cast(nn.ModuleList, blocks):
                x = block(x)
            x = norm(x).permute(0, 3, 1, 2)
            if index in self.out_indices:
                # Some heads of mmseg take views that channels-last maps do not allow. The copy is 1 % of the time.
                outputs.append(x.contiguous())
        return tuple(outputs)

    def init_weights(self) -> None:
        """Draw random weights, or load `checkpoint`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: it is damaged, or does not fill the network.
        """
        if self.init_cfg is not None:
            super().init_weights()
        else:
            self._draw_weights()
        if self.checkpoint is None:
            warn_of_random_weights(self)
        else:
            self._load(self.checkpoint)

    def _draw_weights(self) -> None:
        """Narrow normal weights for what is linear, also where it is stored as a 1x1 convolution."""
        for module in self.modules():
            if isinstance(module, nn.Linear) or getattr(module, 'kernel_size', None) == (1, 1):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def _load(self, path: str) -> None:
        if not Path(path).expanduser().is_file():
            raise FileNotFoundError(
                f'checkpoint {path} of MixVisionTransformer does not exist, expected the file of this size: mit_b<0-5>.pth '
                'of NVlabs or OpenMMLab, or model.safetensors of nvidia/mit-b<0-5>. Nothing is downloaded: get the file '
                'and give its path, or set checkpoint=None to start from random weights, or from those of load_from.'
            )
        tensors = read_weight_file(path).tensors
        try:
            naming = detect_naming(tensors)
            found, used = take_encoder(tensors, naming, self.state_dict())
        except ValueError as error:
            raise ValueError(f'checkpoint {path}: {error}') from error
        # Heads stand beside the encoder; they are not wanted here, but what else is in its place is named.
        rest = {n: t for n, t in tensors.items() if n not in used and n.startswith(naming.prefix)}
        fill_backbone(self, found | rest, path)


def _check_settings(
    num_stages: int, by_stage: dict[str, Sequence[int]], out_indices: Sequence[int]
) -> None:
    wrong = {name: value for name, value in by_stage.items() if len(value) != num_stages}
    if wrong:
        shown = ', '.join(f'{name}={tuple(value)}' for name, value in wrong.items())
        raise ValueError(
            f'MixVisionTransformer: got {shown}, expected a value for each of num_stages={num_stages} stages'
        )
    if not out_indices or not all(0 <= index < num_stages for index in out_indices):
        raise ValueError(
            f'MixVisionTransformer: got out_indices={tuple(out_indices)}, expected stages from 0 to {num_stages - 1}'
        )
