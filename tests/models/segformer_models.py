"""Small SegFormers, weights for them from a generator, and their decoders written as the papers describe them."""

from collections.abc import Sequence

import torch
from mmseg.models.decode_heads import SegformerHead
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.segformer import SegformerMLPHead

WIDTHS = (8, 16, 40, 64)


def fill(module: nn.Module) -> None:
    """Weights of the usual size; norms, biases and statistics that do something."""
    generator = torch.Generator().manual_seed(1)
    norms = {id(m.weight) for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)}
    for parameter in module.parameters():
        scale = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        parameter.data.normal_(float(id(parameter) in norms), scale, generator=generator)
    for name, buffer in module.named_buffers():
        if name.endswith('running_mean'):
            buffer.normal_(0, 0.3, generator=generator)
        elif name.endswith('running_var'):
            buffer.uniform_(0.5, 2, generator=generator)


def make_levels(size: tuple[int, int], num_images: int = 2) -> list[Tensor]:
    """Maps of an image of this size, as the encoder makes them."""
    generator = torch.Generator().manual_seed(2)
    sizes = [[-(-side // stride) for side in size] for stride in (4, 8, 16, 32)]
    return [
        torch.randn(num_images, width, *shape, generator=generator).requires_grad_()
        for width, shape in zip(WIDTHS, sizes, strict=True)
    ]


def paper_decoder(head: SegformerMLPHead, levels: Sequence[Tensor]) -> Tensor:
    """Linear layers, resizing, concatenation from the coarsest level to the finest, one more layer, the classifier."""
    resized = []
    for conv, level in zip(head.convs, levels, strict=True):
        linear = functional.linear(level.movedim(1, -1), conv.weight[:, :, 0, 0], conv.bias)
        resized.append(_resize(linear.movedim(-1, 1), levels[0], head.align_corners))
    fused = head.fusion_conv.conv(torch.cat(resized[::-1], dim=1))
    fused = functional.relu(head.fusion_conv.bn(fused))
    return head.conv_seg(fused)


def mmseg_head(**settings: object) -> SegformerHead:
    """mmseg's own decoder with its four levels."""
    return SegformerHead(**mmseg_settings(**settings))


def mmseg_settings(**settings: object) -> dict:
    cfg = dict(
        in_channels=list(WIDTHS),
        in_index=[0, 1, 2, 3],
        channels=12,
        num_classes=5,
        dropout_ratio=0.0,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
    )
    return cfg | settings


def _resize(x: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    return functional.interpolate(x, like.shape[2:], mode='bilinear', align_corners=align_corners)
