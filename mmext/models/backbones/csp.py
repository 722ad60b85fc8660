"""CSP backbone of YOLO v8 and v11.

The layouts are those of the published YOLOv8 and YOLO11 networks; the five sizes differ in
`deepen_factor`, `widen_factor` and `max_channels` only:

    ====  ==================  ==================
    size  v8                  v11
    ====  ==================  ==================
    n     0.33, 0.25, 1024    0.50, 0.25, 1024
    s     0.33, 0.50, 1024    0.50, 0.50, 1024
    m     0.67, 0.75, 768     0.50, 1.00, 512
    l     1.00, 1.00, 512     1.00, 1.00, 512
    x     1.00, 1.25, 512     1.00, 1.50, 512
    ====  ==================  ==================

Shapes: B batch, C channels, H and W the size of the input.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmext.models.backbones.csp_context import C2PSA, SPPF
from mmext.models.common.layers import (
    ACT_CFG,
    NORM_CFG,
    C2f,
    C3k2,
    ConvNormAct,
    scale_channels,
    scale_depth,
)
from mmext.registry import MODELS

STEM_CHANNELS = 64
NUM_PSA_BLOCKS = 2


class _Stage(NamedTuple):
    """One stage at unit size: stride-2 convolution to `down_channels`, block to `out_channels`."""

    down_channels: int
    out_channels: int
    num_blocks: int
    expand_ratio: float = 0.5
    inner: str = 'bottleneck'


STAGES: dict[str, tuple[_Stage, ...]] = {
    'v8': (
        _Stage(128, 128, 3),
        _Stage(256, 256, 6),
        _Stage(512, 512, 6),
        _Stage(1024, 1024, 3),
        _Stage(1024, 1024, 3),
    ),
    'v11': (
        _Stage(128, 256, 2, expand_ratio=0.25),
        _Stage(256, 512, 2, expand_ratio=0.25),
        _Stage(512, 512, 2, inner='c3k'),
        _Stage(1024, 1024, 2, inner='c3k'),
        _Stage(1024, 1024, 2, inner='c3k'),
    ),
}
# After the stem. The published models end at stride 32; a fifth stage (P6, stride 64) is for objects
# longer than 30 cells of 32 pixels.
NUM_STAGES = (4, 5)


@MODELS.register_module()
class CSPBackbone(BaseModule):
    """Backbone of YOLO v8 (C2f, SPPF) and v11 (C3k2, SPPF, C2PSA).

    Five stages at strides 2, 4, 8, 16 and 32: `stem`, `stage1` .. `stage4`. With `num_stages=5` a
    `stage5` at stride 64 follows, as wide as the one before it, so that the published weights fit the
    convolutions of all others. In v11 the first two stages have plain Bottlenecks where
    `widen_factor` < 1 (sizes n and s) and C3k blocks in the wider ones. The last stage ends with SPPF
    and, in v11, C2PSA.

    Args:
        version: 'v8' or 'v11'.
        in_channels: Channels of the image.
        deepen_factor: Multiplies the number of blocks of each stage.
        widen_factor: Multiplies the number of channels of each stage.
        max_channels: Cap on the channels, applied before `widen_factor`.
        num_stages: Stages after the stem: 4, as published, or 5 for a map at stride 64.
        out_indices: Stages whose outputs are returned, 0 (stem) to `num_stages`, in rising order: 1 is
            P2 at stride 4, 5 is P6 at stride 64.
        frozen_stages: Stages up to this index get no gradient and keep their statistics; -1 freezes
            none.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
        norm_eval: Whether batch norms keep their running statistics while training.
        init_cfg: mmengine init config, for example `dict(type='Pretrained', checkpoint=...,
            prefix='backbone.')`.

    Attributes:
        out_channels: Channels of each output.

    Raises:
        ValueError: Unknown version, number of stages, or stage index out of range.
    """

    def __init__(
        self,
        version: str = 'v8',
        in_channels: int = 3,
        *,
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        max_channels: int = 1024,
        num_stages: int = 4,
        out_indices: Sequence[int] = (2, 3, 4),
        frozen_stages: int = -1,
        norm_cfg: dict[str, Any] | None = NORM_CFG,
        act_cfg: dict[str, Any] | None = ACT_CFG,
        norm_eval: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_arguments(version, num_stages, out_indices, frozen_stages)
        self.version = version
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        layer_cfg: dict[str, Any] = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)

        def width(channels: int) -> int:
            return scale_channels(channels, widen_factor, max_channels)

        channels = width(STEM_CHANNELS)
        self.stem = ConvNormAct(in_channels, channels, kernel_size=3, stride=2, **layer_cfg)
        self.stage_names = ['stem']
        stage_channels = [channels]
        for number, stage in enumerate(STAGES[version][:num_stages], start=1):
            layers = _stage_layers(
                version,
                channels,
                stage._replace(
                    down_channels=width(stage.down_channels),
                    out_channels=width(stage.out_channels),
                    num_blocks=scale_depth(stage.num_blocks, deepen_factor),
                    inner='c3k' if widen_factor >= 1 else stage.inner,
                ),
                layer_cfg,
            )
            channels = width(stage.out_channels)
            if number == num_stages:
                layers += _context_layers(version, channels, deepen_factor, layer_cfg)
            self.add_module(f'stage{number}', nn.Sequential(*layers))
            self.stage_names.append(f'stage{number}')
            stage_channels.append(channels)
        self.out_channels = tuple(stage_channels[index] for index in self.out_indices)
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of an image.

        Args:
            x: (B, in_channels, H, W), values in [0, 1].

        Returns:
            One (B, C, ceil(H / s), ceil(W / s)) map per entry of `out_indices`, s = 2 ** (index +
            1).
        """
        outputs = []
        for index, name in enumerate(self.stage_names[: max(self.out_indices) + 1]):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'CSPBackbone':
        """Set the training mode; frozen stages and, with `norm_eval`, all norms stay in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        for name in self.stage_names[: self.frozen_stages + 1]:
            stage = getattr(self, name)
            stage.eval()
            for parameter in stage.parameters():
                parameter.requires_grad = False


def _check_arguments(
    version: str, num_stages: int, out_indices: Sequence[int], frozen_stages: int
) -> None:
    if version not in STAGES:
        raise ValueError(f'CSPBackbone: unknown version {version!r}, choose from {list(STAGES)}')
    if num_stages not in NUM_STAGES:
        raise ValueError(f'CSPBackbone: got num_stages={num_stages}, expected one of {NUM_STAGES}')
    indices = list(out_indices)
    is_rising = indices == sorted(set(indices))
    if not indices or not is_rising or not 0 <= indices[0] <= indices[-1] <= num_stages:
        raise ValueError(
            f'CSPBackbone: out_indices must rise from 0 (stem) to at most num_stages={num_stages}, '
            f'got {indices}'
        )
    if not -1 <= frozen_stages <= num_stages:
        raise ValueError(
            f'CSPBackbone: frozen_stages must be -1 (none) to {num_stages} (all), got {frozen_stages}'
        )


def _stage_layers(
    version: str, in_channels: int, stage: _Stage, layer_cfg: dict[str, Any]
) -> list[nn.Module]:
    """Stride-2 convolution and split chain of one stage, at its final widths."""
    down = ConvNormAct(in_channels, stage.down_channels, kernel_size=3, stride=2, **layer_cfg)
    channels = (stage.down_channels, stage.out_channels)
    if version == 'v8':
        chain: nn.Module = C2f(
            *channels, num_blocks=stage.num_blocks, add_identity=True, **layer_cfg
        )
    else:
        chain = C3k2(
            *channels,
            num_blocks=stage.num_blocks,
            inner=stage.inner,
            expand_ratio=stage.expand_ratio,
            **layer_cfg,
        )
    return [down, chain]


def _context_layers(
    version: str, channels: int, deepen_factor: float, layer_cfg: dict[str, Any]
) -> list[nn.Module]:
    """What follows the last stage: pooling and, in v11, attention."""
    layers: list[nn.Module] = [SPPF(channels, **layer_cfg)]
    if version == 'v11':
        num_blocks = scale_depth(NUM_PSA_BLOCKS, deepen_factor)
        layers.append(C2PSA(channels, num_blocks=num_blocks, **layer_cfg))
    return layers
