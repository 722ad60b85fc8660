"""ResNet that also returns its stem, for decoders with a skip connection at stride 2.

Source: ResNet (https://arxiv.org/abs/1512.03385), as mmseg has it. Children have its names, which are torchvision's.
"""

from pathlib import Path
from typing import Any

from mmseg.models.backbones import ResNet
from torch import Tensor

from mmext.models.backbones.pretrained import (
    backbone_entries,
    fill_backbone,
    refuse_pretrained,
    warn_of_random_weights,
)
from mmext.models.common.weight_files import read_weight_file
from mmext.registry import MODELS

# What classifies in the files of whole networks.
_CLASSIFIERS = ('fc.', 'head.')
NORM_CFG: dict[str, Any] = dict(type='BN')
# Published files, by depth and whether the stem is deep.
FILES = {
    (18, False): 'resnet18-f37072fd.pth of torchvision',
    (34, False): 'resnet34-b627a593.pth of torchvision',
    (50, False): 'resnet50-0676ba61.pth of torchvision',
    (101, False): 'resnet101-63fe2227.pth of torchvision',
    (152, False): 'resnet152-394f9c45.pth of torchvision',
    (18, True): 'resnet18_v1c-b5776b93.pth of OpenMMLab',
    (50, True): 'resnet50_v1c-2cccc1ad.pth of OpenMMLab',
    (101, True): 'resnet101_v1c-e67eebb6.pth of OpenMMLab',
}


@MODELS.register_module()
class ResNetStem(ResNet):
    """mmseg's `ResNet` with the map before the max-pooling as its first output.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: of the image.
        stem_channels: of the first output.
        base_channels: of the first stage; 64 in the published networks. Not 8 with kernels stored channels-last
            (`mmext.ChannelsLastHook`): torch 2.13 dies on a CPU in the backward pass of 1x1 convolutions with stride 2 then.
        deep_stem: three 3x3 convolutions instead of one of 7x7 (ResNet-V1c, whose weights are other files).
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and the first i stages.
        norm_eval: whether norms keep their statistics while training.
        norm_cfg: config of the norms.
        with_cp: whether activations inside of the blocks are computed again in the backward pass, to save memory.
        checkpoint: file of pre-trained weights, such as torchvision's `resnet50-<hash>.pth`, read by `init_weights`,
            which mmengine calls before training and not before testing. None leaves random weights, unless a checkpoint
            of the whole model follows.
        init_cfg: mmengine init config; not 'Pretrained', see `checkpoint`.

    Attributes:
        out_channels: of each output; strides 2, 4, 8, 16, 32.

    Raises:
        ValueError: unknown depth, or `init_cfg` of type 'Pretrained'.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        *,
        stem_channels: int = 64,
        base_channels: int = 64,
        deep_stem: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] = NORM_CFG,
        with_cp: bool = False,
        checkpoint: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        refuse_pretrained(init_cfg)
        if depth not in self.arch_settings:
            raise ValueError(
                f'ResNetStem: got depth={depth!r}, expected one of {sorted(self.arch_settings)}'
            )
        super().__init__(
            depth,
            in_channels=in_channels,
            stem_channels=stem_channels,
            base_channels=base_channels,
            deep_stem=deep_stem,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            norm_cfg=norm_cfg,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        self.checkpoint = checkpoint
        widths = [base_channels * 2**stage * self.block.expansion for stage in range(4)]
        self.out_channels = (stem_channels, *widths)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of an image (B, in_channels, H, W), finest first: strides 2, 4, 8, 16, 32, sizes rounded up."""
        stem = self.stem(x) if self.deep_stem else self.relu(self.norm1(self.conv1(x)))
        outputs = [stem]
        x = self.maxpool(stem)
        for name in self.res_layers:
            x = getattr(self, name)(x)
            outputs.append(x)
        return tuple(outputs)

    def init_weights(self) -> None:
        """Draw random weights, or load `checkpoint`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: it is damaged, or does not fill the network.
        """
        super().init_weights()
        if self.checkpoint is None:
            warn_of_random_weights(self)
        else:
            self._load(self.checkpoint)

    def train(self, mode: bool = True) -> 'ResNetStem':
        """Set the training mode; what is frozen stays in eval. (mmseg's returns nothing, so that `eval()` does too.)"""
        super().train(mode)
        return self

    def _load(self, path: str) -> None:
        if not Path(path).expanduser().is_file():
            wanted = FILES.get((self.depth, self.deep_stem), 'a file of this architecture')
            raise FileNotFoundError(
                f'checkpoint {path} of ResNetStem does not exist, expected {wanted}. Nothing is downloaded: get the file '
                'and give its path, or set checkpoint=None to start from random weights, or from those of load_from.'
            )
        tensors = backbone_entries(read_weight_file(path).tensors)
        tensors = {n: t for n, t in tensors.items() if not n.startswith(_CLASSIFIERS)}
        fill_backbone(self, tensors, path)
