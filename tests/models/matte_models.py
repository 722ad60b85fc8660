"""Small matting models and batches for tests."""

import copy

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmext.registry import MODELS
from tests.systems import SYSTEMS


def tiny_matte_config(**head: object) -> dict:
    """The smallest matting system, with changes to its head."""
    config = copy.deepcopy(SYSTEMS['attn-unet-r18'])
    config['decode_head'].update(head)
    return config


def build_tiny(**head: object) -> nn.Module:
    """`tiny_matte_config`, built, with the same weights every time."""
    torch.manual_seed(0)
    return MODELS.build(tiny_matte_config(**head))


def matte_sample(
    height: int, width: int, *, alpha: torch.Tensor | None = None, **meta: object
) -> SegDataSample:
    """A sample of a photo of that size, whose left half is foreground unless told otherwise."""
    sample = SegDataSample(
        metainfo=dict(img_shape=(height, width), ori_shape=(height, width)) | meta
    )
    if alpha is None:
        alpha = torch.zeros(1, height, width)
        alpha[..., : width // 2] = 1
    sample.gt_alpha = PixelData(data=alpha)
    return sample
