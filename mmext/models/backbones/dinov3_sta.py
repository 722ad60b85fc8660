"""DINOv3STA: a DINOv3 transformer with a small convolutional branch, the backbone of DEIMv2 S to X.

Source: DEIMv2 (https://arxiv.org/abs/2509.20787), "spatial tuning adapter". The transformer sees the
image at stride 16 only; the adapter adds the detail at strides 8, 16 and 32. Children bear the names
of the published weights: `dinov3` (`dinov3._model` in the tiny ones), `sta`, `convs`, `norms`.

Shapes: B images, E channels of the transformer, C of the outputs, H and W the size of the image.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.models.backbones.dinov3 import ARCHS, PATCH_SIZE, VisionTransformer
from mmext.models.backbones.dinov3_weights import load_pretrained
from mmext.models.backbones.pretrained import refuse_pretrained, warn_of_random_weights
from mmext.models.backbones.pretrained_files import check_exists
from mmext.models.common.folding import FoldedConv, fold_pair, fold_sequential
from mmext.registry import MODELS

NORM_CFG: dict[str, Any] = dict(type='BN')
NUM_LEVELS = 3


class SpatialTuningAdapter(nn.Module):
    """Convolutions that keep the detail of the image.

    The outputs are those of the norms: the activation belongs to the stage that follows.

    Args:
        channels: p; the outputs have 2p, 4p and 4p channels.
        norm_cfg: Config of the norm layers.
    """

    def __init__(self, channels: int, norm_cfg: dict[str, Any]) -> None:
        super().__init__()

        def conv_norm(in_channels: int, out_channels: int) -> list[nn.Module]:
            conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
            return [conv, build_norm_layer(norm_cfg, out_channels)[1]]

        pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stem = nn.Sequential(*conv_norm(3, channels), nn.GELU(), pool)
        self.conv2 = nn.Sequential(*conv_norm(channels, 2 * channels))
        self.conv3 = nn.Sequential(nn.GELU(), *conv_norm(2 * channels, 4 * channels))
        self.conv4 = nn.Sequential(nn.GELU(), *conv_norm(4 * channels, 4 * channels))
        self.out_channels = (2 * channels, 4 * channels, 4 * channels)
        self.folded: nn.ModuleList | None = None

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps at strides 8, 16 and 32, their sizes rounded up."""
        stem, conv2, conv3, conv4 = self.folded or self._stages()
        outputs = [conv2(stem(image))]
        for stage in (conv3, conv4):
            outputs.append(stage(outputs[-1]))
        return outputs

    def fold(self) -> nn.ModuleList:
        return nn.ModuleList(map(fold_sequential, self._stages())).eval()

    def _stages(self) -> tuple[nn.Sequential, ...]:
        return self.stem, self.conv2, self.conv3, self.conv4


@MODELS.register_module()
class DINOv3STA(BaseModule):
    """DINOv3 transformer, spatial tuning adapter and their fusion to maps at strides 8, 16 and 32.

    Three blocks of the transformer give one map each, all at stride 16. They are resized to the sizes
    of the adapter's maps, and a 1x1 convolution and a norm fuse each pair.

    Images must have sides that are multiples of 16. Where they are not multiples of 32, the last map
    is rounded up; the published models know multiples of 32 only.

    Args:
        arch: Transformer: 'vit_tiny' (S), 'vit_tiny_plus' (M), 'vits' (L), 'vits_plus' (X).
        sta_channels: First width p of the adapter: 16 (S, M), 32 (L), 64 (X).
        out_channels: C: 192 (S), 256 (M), 224 (L), 256 (X).
        checkpoint: File with the weights of the transformer, read by `init_weights`, which mmengine
            calls before training and not before testing. Names as Meta published them (or the
            distilled tiny ones), or those of transformers; .pth or .safetensors. None leaves the
            transformer as it is, with random weights unless a checkpoint of the whole model follows.
        frozen: Whether the transformer keeps its weights and stays in eval mode, without rescaled
            positions. Adapter and fusion learn all the same.
        with_cp: Whether training recomputes the inside of the transformer's blocks in the backward
            pass instead of keeping it: less memory, more time.
        norm_cfg: Config of the norm layers in adapter and fusion. The published models were trained
            with dict(type='SyncBN').
        init_cfg: mmengine init config of the other layers; not 'Pretrained', see `checkpoint`.

    Attributes:
        out_channels: Channels of each output.

    Raises:
        ValueError: Unknown architecture, channels below 1, or `init_cfg` of type 'Pretrained'.
    """

    def __init__(
        self,
        arch: str,
        *,
        sta_channels: int,
        out_channels: int,
        checkpoint: str | None = None,
        frozen: bool = False,
        with_cp: bool = False,
        norm_cfg: dict[str, Any] = NORM_CFG,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_arguments(arch, sta_channels, out_channels)
        refuse_pretrained(init_cfg)
        self.arch = arch
        self.checkpoint = checkpoint
        self.frozen = frozen
        embed_dims = ARCHS[arch].embed_dims
        vit = VisionTransformer(ARCHS[arch], with_cp=with_cp)
        # The published tiny transformers sit one module deeper than the others.
        self.dinov3 = nn.ModuleDict({'_model': vit}) if arch.startswith('vit_tiny') else vit
        self.sta = SpatialTuningAdapter(sta_channels, norm_cfg)
        self.convs = nn.ModuleList(
            nn.Conv2d(embed_dims + channels, out_channels, 1, bias=False)
            for channels in self.sta.out_channels
        )
        self.norms = nn.ModuleList(
            build_norm_layer(norm_cfg, out_channels)[1] for _ in range(NUM_LEVELS)
        )
        self.out_channels = (out_channels,) * NUM_LEVELS
        self.folded: nn.ModuleList | None = None
        if frozen:
            self.dinov3.requires_grad_(False)

    @property
    def vit(self) -> VisionTransformer:
        """The transformer, wherever its weights' names put it."""
        nested = self.dinov3
        return cast(
            VisionTransformer, nested['_model'] if isinstance(nested, nn.ModuleDict) else nested
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of an image.

        Args:
            x: (B, 3, H, W), normalised by mean and standard deviation of ImageNet, sides multiples
                of 16.

        Returns:
            (B, C, H/8, W/8), (B, C, H/16, W/16), (B, C, ceil(H/32), ceil(W/32)), without activation.

        Raises:
            ValueError: A side that is no multiple of 16.
        """
        height, width = x.shape[-2:]
        if height % PATCH_SIZE or width % PATCH_SIZE:
            # Padding here would shift every box: the decoder's are relative to the maps' extent.
            raise ValueError(
                f'DINOv3STA: got an image of {height} x {width}, expected sides that are multiples of '
                f'{PATCH_SIZE}. Resize to such a size, or set pad_size_divisor=32 in the data '
                'preprocessor.'
            )
        # The transformer's maps have their channels last. In that format the convolutions take half
        # of the time on a CPU (640 px), and nothing has to be rearranged where the two meet.
        x = x.contiguous(memory_format=torch.channels_last)
        pairs = list(zip(self.vit(x), self.sta(x), strict=True))
        if self.folded is not None:
            folded = cast(Iterable[FoldedConv], self.folded)
            return tuple(_fuse(conv, *pair) for conv, pair in zip(folded, pairs, strict=True))
        convs = cast(Iterable[nn.Conv2d], self.convs)
        return tuple(
            norm(_fuse(conv, *pair))
            for conv, norm, pair in zip(convs, self.norms, pairs, strict=True)
        )

    def fold(self) -> nn.ModuleList:
        return nn.ModuleList(map(fold_pair, self.convs, self.norms)).eval()

    def init_weights(self) -> None:
        """Load `checkpoint` into the transformer.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: It is damaged, or does not fill the whole transformer.
        """
        super().init_weights()
        if self.checkpoint is not None:
            check_exists(self.checkpoint, self.arch)
            load_pretrained(self.vit, self.checkpoint)
        else:
            warn_of_random_weights(self)

    def train(self, mode: bool = True) -> 'DINOv3STA':
        """Set the training mode; a frozen transformer stays in eval."""
        super().train(mode)
        if self.frozen:
            self.dinov3.eval()
        return self


def _fuse(conv: nn.Conv2d | FoldedConv, semantic: Tensor, detail: Tensor) -> Tensor:
    """1x1 convolution of [semantic, detail], the semantic map resized to the size of the detail.

    Resizing mixes no channels and a 1x1 convolution no places, so the order of the two is free: what
    has to be enlarged goes through the convolution first, which then costs a quarter.
    """
    size = detail.shape[-2:]
    if size[0] > semantic.shape[-2]:
        # A part of the weights as it is would make torch choose the other memory format, at twice the time.
        weights = [
            part.contiguous(memory_format=torch.channels_last)
            for part in conv.weight.split([semantic.shape[1], detail.shape[1]], dim=1)
        ]
        projected = F.interpolate(F.conv2d(semantic, weights[0]), size, mode='bilinear')
        return projected + F.conv2d(detail, weights[1], conv.bias)
    if size != semantic.shape[-2:]:
        semantic = F.interpolate(semantic, size, mode='bilinear')
    return conv(torch.cat([semantic, detail], dim=1))


def _check_arguments(arch: str, sta_channels: int, out_channels: int) -> None:
    if arch not in ARCHS:
        raise ValueError(f'DINOv3STA: unknown arch {arch!r}, choose from {list(ARCHS)}')
    if sta_channels < 1 or out_channels < 1:
        raise ValueError(
            f'DINOv3STA: got sta_channels={sta_channels} and out_channels={out_channels}, expected '
            'at least 1 each. The docstring has the published numbers.'
        )
