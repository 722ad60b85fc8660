"""TransformersBackbone in Mask R-CNN, under SegFormer's head and under query decoders."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from tests.contract_kinds import Instances, Semantics
from tests.models.transformers_networks import CHANNELS, NETWORKS
from tests.systems import query_seg, query_seg_neck

IMAGENET_PIXELS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def backbone_config(name: str) -> dict:
    return dict(type='mmext.TransformersBackbone', config=NETWORKS[name], out_indices=(1, 2, 3, 4))


def mask_rcnn(name: str, neck: dict | list) -> ConfigDict:
    """Mask R-CNN at three classes, narrow."""
    head = dict(in_channels=16, num_classes=3)
    assigner = dict(type='mmdet.MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)
    sampler = dict(type='mmdet.RandomSampler', num=16, pos_fraction=0.5, add_gt_as_proposals=False)
    proposals = dict(
        nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
    )
    coder = dict(type='mmdet.DeltaXYWHBBoxCoder')
    loss_cls = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False)

    def extractor(size: int) -> dict:
        return dict(
            type='mmdet.SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=2),
            out_channels=16,
            featmap_strides=[4, 8, 16, 32],
        )

    return ConfigDict(
        type='mmdet.MaskRCNN',
        data_preprocessor=dict(
            type='mmdet.DetDataPreprocessor', pad_mask=True, pad_size_divisor=32, **IMAGENET_PIXELS
        ),
        backbone=backbone_config(name),
        neck=neck,
        rpn_head=dict(
            type='mmdet.RPNHead',
            in_channels=16,
            feat_channels=16,
            anchor_generator=dict(
                type='mmdet.AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8, 16, 32]
            ),
            bbox_coder=coder,
            loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True),
            loss_bbox=dict(type='mmdet.L1Loss'),
        ),
        roi_head=dict(
            type='mmdet.StandardRoIHead',
            bbox_roi_extractor=extractor(7),
            bbox_head=dict(
                type='mmdet.Shared2FCBBoxHead',
                fc_out_channels=16,
                roi_feat_size=7,
                bbox_coder=coder,
                reg_class_agnostic=False,
                loss_cls=loss_cls,
                loss_bbox=dict(type='mmdet.L1Loss'),
                **head,
            ),
            mask_roi_extractor=extractor(14),
            mask_head=dict(
                type='mmdet.FCNMaskHead',
                num_convs=1,
                conv_out_channels=16,
                loss_mask=dict(type='mmdet.CrossEntropyLoss', use_mask=True),
                **head,
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=assigner | dict(match_low_quality=True),
                sampler=sampler,
                allowed_border=-1,
                pos_weight=-1,
                debug=False,
            ),
            rpn_proposal=proposals,
            rcnn=dict(assigner=assigner, sampler=sampler, mask_size=28, pos_weight=-1, debug=False),
        ),
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(
                score_thr=0.0,
                nms=dict(type='nms', iou_threshold=0.5),
                max_per_img=5,
                mask_thr_binary=0.5,
            ),
        ),
    )


def fpn(channels: list[int]) -> dict:
    return dict(type='mmdet.FPN', in_channels=channels, out_channels=16, num_outs=4)


def mask2former(name: str, head: str) -> ConfigDict:
    """A query decoder on the maps themselves, or mmdet's with its own pixel decoder."""
    model = query_seg_neck() if head == 'neck' else query_seg()
    model.pop('neck', None)
    model.backbone = backbone_config(name)
    model.panoptic_head.in_channels = list(CHANNELS[name])
    return model


def segformer(name: str) -> ConfigDict:
    return ConfigDict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg.SegDataPreProcessor',
            size_divisor=32,
            test_cfg=dict(size_divisor=32),
            **IMAGENET_PIXELS,
        ),
        backbone=backbone_config(name),
        decode_head=dict(
            type='mmext.SegformerMLPHead',
            in_channels=CHANNELS[name],
            channels=16,
            num_classes=3,
            loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
        ),
        test_cfg=dict(mode='whole'),
    )


PYRAMID = [
    dict(type='mmseg.Feature2Pyramid', embed_dim=16, norm_cfg=dict(type='BN')),
    fpn([16, 16, 16, 16]),
]
SYSTEMS = {
    'mask-rcnn-resnet': mask_rcnn('resnet', fpn([8, 16, 24, 32])),
    'mask-rcnn-dinov3': mask_rcnn('dinov3', PYRAMID),
    'segformer-convnext': segformer('convnext'),
    'query-decoder-swin': mask2former('swin', 'mask2former'),
    'query-decoder-dinov3': mask2former('dinov3', 'neck'),
}


@pytest.mark.slow
@pytest.mark.parametrize('system', SYSTEMS)
def test_systems__learn_and_predict(system):
    torch.manual_seed(0)
    config = SYSTEMS[system]
    model = MODELS.build(copy.deepcopy(config))
    kind = Semantics() if 'segformer' in system else Instances()
    images = [(torch.rand(3, 64, 96) * 255).byte() for _ in range(2)]
    data = dict(inputs=images, data_samples=[kind.sample(64, 96, 2) for _ in images])
    losses = model.train()(**model.data_preprocessor(data, training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad)
    odd = (torch.rand(3, 75, 50) * 255).byte()
    with torch.no_grad():
        (found,) = model.eval().test_step(dict(inputs=[odd], data_samples=[kind.sample(75, 50, 1)]))
    kind.check_result(found, (75, 50))
