"""Backbones of the library transformers: ResNet, ConvNeXt, Swin, DINOv2 and all others that its `AutoBackbone` knows."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.backbones.pretrained import refuse_pretrained, warn_of_random_weights
from mmext.models.backbones.transformers_files import (
    PREPROCESSOR,
    PixelRange,
    fill_network,
    read_pixel_range,
)
from mmext.models.backbones.transformers_probe import MAP_NORMS, first_stages, probe_network
from mmext.models.common.weight_files import transformers_folder
from mmext.registry import MODELS


@MODELS.register_module()
class TransformersBackbone(BaseModule):
    """Feature maps of a network of transformers.

        dict(type='mmext.TransformersBackbone', config='models/resnet-50', out_indices=(2, 3, 4), checkpoint='models/resnet-50')

    Nothing is downloaded. Every map of a plain ViT (DINOv2, DINOv3, BEiT, ...) has the stride of its patches; a pyramid of
    them is made by two necks of the frameworks, here of strides 4, 8, 16 and 32 for patches of 16 pixels:

        backbone=dict(type='mmext.TransformersBackbone', config='models/dinov3-small', out_indices=(3, 6, 9, 12)),
        neck=[
            dict(type='mmseg.Feature2Pyramid', embed_dim=384, rescales=[4, 2, 1, 0.5], norm_cfg=dict(type='BN')),
            dict(type='mmdet.FPN', in_channels=[384] * 4, out_channels=256, num_outs=5),
        ],

    An image whose sides are no multiples of the largest stride is padded with zeros at the bottom and on the right, as the
    `data_preprocessor` would; a ViT of transformers would leave these pixels out. Parameters that no map depends on, such
    as mask tokens and layers behind the last map, do not want gradients, for which distributed training would wait.

    Args:
        config: settings with `model_type`, such as dict(model_type='resnet', depths=[3, 4, 6, 3]); or a folder with the
            `config.json` of a published model.
        out_indices: the stages whose maps are returned, ascending; 0 is the stem, 1 the first stage; of a ViT the layers.
        checkpoint: folder of a published model, `config.json` and its weights, read by `init_weights`, which mmengine
            calls before training and not before testing. None leaves random weights.
        frozen_stages: the stem and so many stages never train: no gradients, and their norms and dropout stay in evaluation
            mode; 0 for the stem alone, -1 for nothing. Norms of the maps, which classifiers have not, always train.
        init_cfg: mmengine init config; not 'Pretrained', see `checkpoint`.

    Attributes:
        out_channels: of each map.
        strides: of each map.
        pixel_range: the normalisation that `checkpoint` was trained with, in the data_preprocessor's numbers, known behind
            `init_weights`; None where its folder does not tell. The preflight compares it with the data_preprocessor.

    Raises:
        FileNotFoundError: the folder has no config.json.
        ValueError: no such kind of model, no such stages, or `init_cfg` of type 'Pretrained'.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str,
        *,
        out_indices: Sequence[int],
        checkpoint: str | None = None,
        frozen_stages: int = -1,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        # It takes seconds, and few configs want it.
        from transformers import AutoBackbone, AutoConfig

        refuse_pretrained(init_cfg)
        super().__init__(init_cfg)
        if isinstance(config, str):
            settings = AutoConfig.from_pretrained(
                transformers_folder(config), local_files_only=True
            )
        else:
            settings = AutoConfig.for_model(**{'model_type': 'none given', **config})
        settings.out_indices = list(out_indices)
        # Not the type that the file has: autocast chooses, and optimizers want float32.
        self.network = AutoBackbone.from_config(settings, dtype=torch.float32)
        self.out_channels, self.strides, self._idle = probe_network(settings)
        self.size_divisor = math.lcm(*self.strides)
        self.checkpoint = checkpoint
        self.pixel_range: PixelRange | None = None
        if frozen_stages < -1:
            raise ValueError(
                f'TransformersBackbone: got frozen_stages={frozen_stages}, expected -1 (none) or more.'
            )
        self._frozen = first_stages(self.network, frozen_stages) if frozen_stages >= 0 else []
        for parameter in self._untrained_parameters():
            parameter.requires_grad_(False)
        self.train()
        self._has_warned = False

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W), padded to multiples of `size_divisor`, to the maps (B, C_l, h / stride_l, w / stride_l) of
        `out_indices`; h x w is the padded size."""
        height, width = x.shape[2:]
        bottom, right = -height % self.size_divisor, -width % self.size_divisor
        if bottom or right:
            self._warn_of_padding(height, width)
            x = functional.pad(x, (0, right, 0, bottom))
        return tuple(self.network(x).feature_maps)

    def train(self, mode: bool = True) -> 'TransformersBackbone':
        """As every module's, but frozen stages stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def init_weights(self) -> None:
        """Load `checkpoint`, or leave the weights as they were drawn.

        Raises:
            FileNotFoundError: the folder does not exist.
            ValueError: it does not fill the network.
        """
        super().init_weights()
        if self.checkpoint is None:
            warn_of_random_weights(self)
            return
        fill_network(self.network, self.checkpoint, may_miss=self._idle, new=f'{MAP_NORMS}.')
        self.pixel_range = read_pixel_range(self.checkpoint)
        if self.pixel_range is None:
            text = f'checkpoint {self.checkpoint}: no {PREPROCESSOR} with image_mean, so its normalisation is not known'
        else:
            mean, std = ([round(value, 3) for value in values] for values in self.pixel_range)
            text = (
                f'checkpoint {self.checkpoint}: trained on images of data_preprocessor=dict(mean={mean}, std={std}) in '
                'the order red, green, blue'
            )
        print_log(text, 'current', level=logging.INFO)

    def _untrained_parameters(self) -> list[nn.Parameter]:
        """Those of frozen stages, and those that no map depends on."""
        frozen = [parameter for part in self._frozen for parameter in part.parameters()]
        return frozen + [p for name, p in self.network.named_parameters() if name in self._idle]

    def _warn_of_padding(self, height: int, width: int) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        divisor = self.size_divisor
        text = (
            f'TransformersBackbone: got images of {height} x {width} (height x width), expected multiples of {divisor}; '
            'they are padded here, and a head that stretches its maps over the image is off by up to that much. Set '
            f'pad_size_divisor={divisor} (mmdet) or size_divisor={divisor}, for tests too (mmseg), in the data_preprocessor.'
        )
        print_log(text, 'current', level=logging.WARNING)
