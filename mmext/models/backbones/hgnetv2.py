"""HGNetv2: the convolutional backbone of PaddlePaddle's PP-HGNetV2, in the sizes that DEIMv2 uses.

Sources: PP-HGNetV2 as trained for D-FINE (https://arxiv.org/abs/2410.13842, B0 .. B5) and DEIMv2
(https://arxiv.org/abs/2509.20787, atto, femto, pico). The children have the published names (`stem1`,
`stages`, `aggregation`, `lab`, ...), so that weight conversion renames prefixes only.

Shapes: B batch, C channels, H and W the size of the input.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmext.models.backbones.hgnet_blocks import HGStage, Stage, Stem
from mmext.models.backbones.hgnetv2_weights import load_pretrained
from mmext.models.backbones.pretrained import refuse_pretrained, warn_of_random_weights
from mmext.models.backbones.pretrained_files import check_exists
from mmext.registry import MODELS

NORM_CFG: dict[str, Any] = dict(type='BN')


class Arch(NamedTuple):
    """A network.

    Attributes:
        stem_channels: Channels inside the stem and of its output.
        stages: The stages, at strides 4, 8, 16, 32. The first does not change the size.
        use_lab: Whether activations are followed by a learned scale and bias.
    """

    stem_channels: tuple[int, int]
    stages: tuple[Stage, ...]
    use_lab: bool = True


_SMALL = (Stage(16, 64, 1, 3, 3, False), Stage(32, 256, 1, 3, 3, False))

ARCHS: dict[str, Arch] = {
    'atto': Arch((16, 16), (*_SMALL, Stage(64, 256, 1, 3, 3, True))),
    'femto': Arch((16, 16), (*_SMALL, Stage(64, 512, 1, 5, 3, True))),
    'pico': Arch((16, 16), (*_SMALL, Stage(64, 512, 2, 5, 3, True))),
    'b0': Arch((16, 16), (*_SMALL, Stage(64, 512, 2, 5, 3, True), Stage(128, 1024, 1, 5, 3, True))),
    'b2': Arch(
        (24, 32),
        (
            Stage(32, 96, 1, 3, 4, False),
            Stage(64, 384, 1, 3, 4, False),
            Stage(128, 768, 3, 5, 4, True),
            Stage(256, 1536, 1, 5, 4, True),
        ),
    ),
    'b4': Arch(
        (32, 48),
        (
            Stage(48, 128, 1, 3, 6, False),
            Stage(96, 512, 1, 3, 6, False),
            Stage(192, 1024, 3, 5, 6, True),
            Stage(384, 2048, 1, 5, 6, True),
        ),
        use_lab=False,
    ),
    'b5': Arch(
        (32, 64),
        (
            Stage(64, 128, 1, 3, 6, False),
            Stage(128, 512, 2, 3, 6, False),
            Stage(256, 1024, 5, 5, 6, True),
            Stage(512, 2048, 2, 5, 6, True),
        ),
        use_lab=False,
    ),
}


@MODELS.register_module()
class HGNetv2(BaseModule):
    """Stem at stride 4 and three or four stages of densely aggregated convolutions.

    Args:
        arch: A name in `ARCHS` ('atto', 'femto', 'pico', 'b0', 'b2', 'b4', 'b5'), or the fields of
            `Arch` as a dict, in which `stages` is a list of the fields of `Stage`.
        in_channels: Channels of the image.
        out_indices: Stages whose outputs are returned, counted from 0, in rising order; stage i has
            stride 4 * 2 ** i. Stages behind the last one are left out.
        use_lab: Whether activations are followed by a learned scale and bias; None for what the
            arch was published with.
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and the first i stages: no
            gradient, and norms keep their statistics.
        freeze_norm: Whether all norms keep their statistics, scales and biases while training.
        norm_cfg: Config of the norm layers.
        checkpoint: File of pre-trained weights, `PPHGNetV2_B0_stage1.pth` and so on, read by
            `init_weights`, which mmengine calls before training and not before testing. The sizes
            atto, femto and pico take the file of B0; the last stage of atto stays random. None
            leaves random weights, unless a checkpoint of the whole model follows.
        init_cfg: mmengine init config; not 'Pretrained', see `checkpoint`.

    Attributes:
        out_channels: Channels of each output.

    Raises:
        ValueError: Unknown arch, a stage index out of range, or `init_cfg` of type 'Pretrained'.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        in_channels: int = 3,
        *,
        out_indices: Sequence[int] = (1, 2, 3),
        use_lab: bool | None = None,
        frozen_stages: int = -1,
        freeze_norm: bool = False,
        norm_cfg: dict[str, Any] = NORM_CFG,
        checkpoint: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        refuse_pretrained(init_cfg)
        layout = _resolve_arch(arch)
        self.arch = arch
        self.checkpoint = checkpoint
        _check_indices(len(layout.stages), out_indices, frozen_stages)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.freeze_norm = freeze_norm
        layer_cfg: dict[str, Any] = dict(
            use_lab=layout.use_lab if use_lab is None else use_lab, norm_cfg=norm_cfg
        )

        self.stem = Stem(in_channels, *layout.stem_channels, **layer_cfg)
        self.stages = nn.ModuleList()
        channels = layout.stem_channels[1]
        # Without those behind the last output: in distributed training every parameter needs a gradient.
        for index, stage in enumerate(layout.stages[: self.out_indices[-1] + 1]):
            self.stages.append(HGStage(channels, stage, downsamples=index > 0, **layer_cfg))
            channels = stage.out_channels
        self.out_channels = tuple(layout.stages[index].out_channels for index in self.out_indices)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of an image.

        Args:
            x: (B, in_channels, H, W); the published weights expect RGB in [0, 1], not normalised.

        Returns:
            One (B, C, ceil(H / s), ceil(W / s)) map per entry of `out_indices`, s the stage's stride.
        """
        x = self.stem(x)
        outputs = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def init_weights(self) -> None:
        """Load `checkpoint`.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: It is damaged, or does not fill the network.
        """
        super().init_weights()
        if self.checkpoint is not None:
            check_exists(self.checkpoint, self.arch)
            load_pretrained(self, self.checkpoint, is_atto=self.arch == 'atto')
        else:
            warn_of_random_weights(self)

    def train(self, mode: bool = True) -> 'HGNetv2':
        """Set the training mode; what is frozen stays in eval."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        frozen = [self.stem, *self.stages][: self.frozen_stages + 1]
        if self.freeze_norm:
            frozen += [module for module in self.modules() if isinstance(module, _BatchNorm)]
        for module in frozen:
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False


def _resolve_arch(arch: str | Mapping[str, Any]) -> Arch:
    """The layout of a named arch, or of one that a config states field by field."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f'HGNetv2: got arch={arch!r}, expected one of {list(ARCHS)} or a dict with '
                f'{", ".join(Arch._fields)}'
            )
        return ARCHS[arch]
    try:
        stages = tuple(Stage(**stage) for stage in arch['stages'])
        return Arch(**{**arch, 'stages': stages})
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'HGNetv2: got a dict as arch that does not fit ({error}), expected '
            f'{", ".join(Arch._fields)}, and in each of the stages {", ".join(Stage._fields)}'
        ) from error


def _check_indices(num_stages: int, out_indices: Sequence[int], frozen_stages: int) -> None:
    indices = list(out_indices)
    is_rising = indices == sorted(set(indices))
    if not indices or not is_rising or not 0 <= indices[0] <= indices[-1] < num_stages:
        raise ValueError(
            f'HGNetv2: got out_indices={indices}, expected rising numbers from 0 to '
            f'{num_stages - 1}, the stages of this arch'
        )
    if not -1 <= frozen_stages <= num_stages:
        raise ValueError(
            f'HGNetv2: got frozen_stages={frozen_stages}, expected -1 (none), 0 (stem) to '
            f'{num_stages} (all)'
        )
