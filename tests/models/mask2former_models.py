"""Small Mask2Former heads of mmdet and mmext, and what goes into them."""

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

CLASSES = 3
CHANNELS = (4, 8, 8, 8)


def attention_config(dims: int, **changes: object) -> dict:
    return dict(embed_dims=dims, num_heads=2, dropout=0.0, batch_first=True, **changes)


def ffn_config(dims: int) -> dict:
    return dict(
        embed_dims=dims,
        feedforward_channels=2 * dims,
        num_fcs=2,
        ffn_drop=0.0,
        act_cfg=dict(type='ReLU', inplace=True),
    )


def pixel_decoder_config(dims: int) -> dict:
    """mmdet's, with one layer."""
    attention = attention_config(dims) | dict(num_levels=3, num_points=2)
    layer = dict(self_attn_cfg=attention, ffn_cfg=ffn_config(dims))
    return dict(
        type='MSDeformAttnPixelDecoder',
        num_outs=3,
        norm_cfg=dict(type='GN', num_groups=4),
        act_cfg=dict(type='ReLU'),
        encoder=dict(num_layers=1, layer_cfg=layer),
        positional_encoding=dict(num_feats=dims // 2, normalize=True),
    )


def train_config(num_points: int = 100) -> dict:
    """mmdet's, with few points."""
    return dict(
        num_points=num_points,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=2.0),
                dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
                dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0),
            ],
        ),
        sampler=dict(type='MaskPseudoSampler'),
    )


def head_config(kind: str, *, dims: int = 16, num_stuff: int = 0, **changes: object) -> ConfigDict:
    """A head with 7 queries and 4 layers; `changes` are arguments of the head."""
    num_classes = CLASSES + num_stuff
    layer = dict(
        self_attn_cfg=attention_config(dims),
        cross_attn_cfg=attention_config(dims),
        ffn_cfg=ffn_config(dims),
    )
    config = dict(
        type=kind,
        in_channels=list(CHANNELS),
        strides=[4, 8, 16, 32],
        feat_channels=dims,
        out_channels=dims,
        num_things_classes=CLASSES,
        num_stuff_classes=num_stuff,
        num_queries=7,
        num_transformer_feat_level=3,
        pixel_decoder=pixel_decoder_config(dims),
        positional_encoding=dict(num_feats=dims // 2, normalize=True),
        transformer_decoder=dict(num_layers=4, layer_cfg=layer, return_intermediate=True),
        loss_cls=dict(
            type='CrossEntropyLoss',
            loss_weight=2.0,
            class_weight=[1.0] * num_classes + [0.1],
        ),
        loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0),
        loss_dice=dict(type='DiceLoss', naive_dice=True, eps=1.0, loss_weight=5.0),
        train_cfg=train_config(),
        test_cfg=dict(),
    )
    return ConfigDict(config | changes)


def make_heads(**changes: object) -> tuple[Mask2FormerHead, Mask2FormerHead]:
    """mmdet's head and ours with the same weights, which are strong enough for masks with edges."""
    theirs = MODELS.build(head_config('mmdet.Mask2FormerHead', **changes))
    theirs.init_weights()
    ours = MODELS.build(head_config('mmext.FastMask2FormerHead', **changes))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def make_features(height: int, width: int, batch: int = 2) -> list[Tensor]:
    """Four levels of an image of that size."""
    return [
        torch.randn(batch, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def make_samples(height: int, width: int, counts: Sequence[int]) -> list[DetDataSample]:
    """An image for each of `counts`, with so many discs in it, which may leave it."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    samples = []
    for count in counts:
        y, x = (torch.randint(side, (count, 1, 1)) for side in (height, width))
        radius = torch.randint(2, max(height, width) // 2 + 1, (count, 1, 1))
        masks = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).to(torch.uint8)
        size = (height, width)
        meta = dict(img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1, 1))
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            labels=torch.randint(CLASSES, (count,)),
            masks=BitmapMasks(masks.numpy(), height, width),
        )
        samples.append(sample)
    return samples
