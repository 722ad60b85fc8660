"""A small config of every system, for the promises that all of them keep (tests/test_contract.py)."""

from pathlib import Path

from mmengine.config import ConfigDict

from mmext.models.yolo.variants import SCALES, scale_channels

# Random rows of eight numbers, as `mmext.models.common.text_embeddings` writes them.
TEXT_CLASSES = ('crack', 'dent', 'stain')
TEXT_EMBEDDINGS = Path(__file__).parent / 'golden' / 'class_texts.safetensors'


def yolo_segment(version: str) -> dict:
    """The smallest published size at three classes, as `mmdet.SingleStageDetector`."""
    scale = SCALES[version]['n']
    widths = [scale_channels(width, *scale[1:]) for width in (256, 512, 1024)]
    finest = scale_channels(512 if version == 'v11' else 256, *scale[1:])
    return dict(
        type='mmdet.SingleStageDetector',
        data_preprocessor=dict(
            type='mmdet.DetDataPreprocessor',
            mean=[0.0, 0.0, 0.0],
            std=[255.0, 255.0, 255.0],
            bgr_to_rgb=True,
            pad_mask=True,
            pad_size_divisor=32,
        ),
        backbone=dict(type='mmext.CSPBackbone', version=version, **scale._asdict()),
        neck=dict(
            type='mmext.CSPPAN',
            version=version,
            in_channels=[finest, *widths[1:]],
            out_channels=widths,
            deepen_factor=scale.deepen_factor,
        ),
        bbox_head=dict(
            type='mmext.Segment',
            version=version,
            num_classes=3,
            in_channels=widths,
            proto=dict(type='mmext.Proto', hidden_channels=widths[0]),
            loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
            loss_bbox=dict(type='mmext.CIoULoss', loss_weight=7.5),
            loss_dfl=dict(type='mmext.BoxDistributionLoss', loss_weight=1.5),
            loss_mask=dict(type='mmext.DenseMaskLoss', loss_weight=7.5),
        ),
        train_cfg=dict(assigner=dict(type='mmext.BatchTALAssigner')),
        test_cfg=dict(score_thr=0.001, max_per_img=20),
    )


def yolo_segment_nms_free() -> dict:
    """`yolo_segment('v11')` with a second set of branches that predicts without suppression."""
    model = yolo_segment('v11')
    model['bbox_head']['nms_free'] = True
    # With weights from a formula, most cells score alike to the last bit: the order of more would be chance.
    model['test_cfg'] = dict(model['test_cfg'], max_per_img=3)
    return model


def yolo_segment_enhanced() -> dict:
    """`yolo_segment('v8')` with prototypes of all levels, a small refiner and a semantic branch."""
    model = yolo_segment('v8')
    model['bbox_head'].update(
        type='mmext.SegmentEnhanced',
        num_prototypes=64,
        proto=dict(
            type='mmext.MultiScaleProto', common_channels=16, hidden_channels=32, hr_channels=16
        ),
        refiner=dict(
            type='mmext.MaskRefiner',
            context_channels=8,
            hidden_channels=8,
            train_size=14,
            test_size=14,
        ),
        loss_refine=dict(type='mmext.RefineLoss', max_positives=16),
        semantic=dict(type='mmext.SemanticBranch', hidden_channels=16),
        loss_sem=dict(type='mmext.SemanticLoss', loss_weight=1.0),
    )
    return model


def yolo_segment_attention(mode: str, **changes: object) -> dict:
    """`yolo_segment('v8')` with a small query decoder next to its head."""
    model = yolo_segment('v8')
    model['bbox_head'] = dict(
        type='mmext.SegmentAttention',
        det=dict(model['bbox_head'], loss_scale='mean'),
        decoder=dict(
            type='mmext.QueryMaskDecoder',
            embed_dims=40,
            num_heads=4,
            num_layers=3,
            feedforward_channels=64,
        ),
        criterion=dict(type='mmext.QueryCriterion', num_points=64),
        **changes,
    )
    model['test_cfg'] = dict(model['test_cfg'], mode=mode)
    return model


def deim_atto() -> dict:
    """DEIMv2 Atto at three classes."""
    return dict(
        type='mmext.DEIM',
        data_preprocessor=dict(
            type='mmdet.DetDataPreprocessor',
            mean=[0.0, 0.0, 0.0],
            std=[255.0, 255.0, 255.0],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=dict(type='mmext.HGNetv2', arch='atto', out_indices=(2,)),
        neck=dict(
            type='mmext.LiteEncoder',
            in_channels=(256,),
            out_channels=64,
            block='e4',
            csp_channels=10,
            num_csp_blocks=2,
        ),
        decoder=dict(
            type='mmext.DEIMTransformer',
            num_classes=3,
            in_channels=(64, 64),
            embed_dims=64,
            num_queries=100,
            num_layers=3,
            feedforward_channels=160,
            num_points=(4, 2),
            gated=False,
            shares_bbox_head=True,
            reg_scale=4.0,
        ),
        criterion=dict(
            type='mmext.DEIMCriterion',
            matcher=dict(type='mmext.DEIMMatcher', change_epoch=450),
            loss_weights=dict(mal=1.0, bbox=5.0, giou=2.0),
        ),
        # With weights from a formula many queries score alike: the order of more would be chance.
        test_cfg=dict(max_per_img=3),
    )


def deim_s() -> dict:
    """DEIMv2 S at three classes, narrow behind the backbone."""
    model = deim_atto()
    model['data_preprocessor'].update(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    model['backbone'] = dict(
        type='mmext.DINOv3STA', arch='vit_tiny', sta_channels=16, out_channels=32
    )
    model['neck'] = dict(
        type='mmext.HybridEncoder',
        in_channels=(32, 32, 32),
        out_channels=32,
        block='e5',
        csp_channels=8,
        num_csp_blocks=1,
        ffn_channels=64,
    )
    model['decoder'].update(
        in_channels=(32, 32, 32),
        embed_dims=32,
        num_points=(3, 6, 3),
        num_queries=30,
        feedforward_channels=64,
        gated=True,
        shares_bbox_head=False,
    )
    model['criterion'] = dict(
        type='mmext.DEIMCriterion',
        matcher=dict(type='mmext.DEIMUnionMatcher', change_epoch=100),
        loss_weights=dict(mal=1.0, bbox=5.0, giou=2.0, fgl=0.15, ddf=1.5),
    )
    return model


def deim_text() -> dict:
    """`deim_atto` with a text for each class."""
    model = deim_atto()
    model.update(
        type='mmext.DEIMMultimodal',
        fusion=dict(
            type='mmext.MultimodalFusion',
            num_classes=3,
            visual_dim=64,
            text_dim=8,
            embed_dims=16,
            dropout=0.0,
        ),
        text=dict(classes=TEXT_CLASSES, embeddings=str(TEXT_EMBEDDINGS)),
    )
    return model


def localizer(head: dict) -> dict:
    """`mmext.SingleObjectLocalizer` at three classes on a narrow CNN."""
    loss = dict(
        type='mmext.LocalizationLoss', loss_box=dict(type='mmdet.GIoULoss', loss_weight=1.0)
    )
    return dict(
        type='mmext.SingleObjectLocalizer',
        data_preprocessor=dict(
            type='mmdet.DetDataPreprocessor',
            mean=[0.0, 0.0, 0.0],
            std=[255.0, 255.0, 255.0],
            bgr_to_rgb=True,
        ),
        backbone=dict(type='mmext.LocalizerCNN', channels=(8, 16, 16, 16), out_indices=(1, 2, 3)),
        head=dict(head, num_classes=3, loss=loss),
    )


def attn_unet_resnet() -> dict:
    """The Attention U-Net on a ResNet-18 of an eighth of its width."""
    return dict(
        type='mmext.MatteEncoderDecoder',
        data_preprocessor=dict(
            type='mmext.MattePreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            size_divisor=32,
        ),
        backbone=dict(type='mmext.ResNetStem', depth=18, stem_channels=8, base_channels=8),
        decode_head=dict(
            type='mmext.AttentionUNetHead',
            in_channels=(8, 8, 16, 32, 64),
            stage_channels=(16, 16, 8, 8, 8),
            gate=dict(type='mmext.AttentionGate'),
            loss_decode=[
                dict(type='mmext.MatteBCELoss'),
                dict(type='mmext.MatteDiceLoss'),
                dict(type='mmext.AlphaEdgeLoss'),
            ],
        ),
    )


def attn_unet_light() -> dict:
    """The same on a quarter of a MobileNetV2, with all that the other has not: two logits, deep supervision, ..."""
    model = attn_unet_resnet()
    model['backbone'] = dict(
        type='mmseg.MobileNetV2', widen_factor=0.25, out_indices=(0, 1, 2, 4, 6)
    )
    model['decode_head'].update(
        in_channels=(8, 8, 8, 24, 80),
        gate=dict(type='mmext.SameSizeAttentionGate'),
        block='separable',
        num_logits=2,
        aux_loss_decode=[dict(type='mmext.MatteBCELoss')],
    )
    return model


def query_seg() -> dict:
    """Mask2Former at three classes on a ResNet-18 of an eighth of its width. mmdet asks for a ConfigDict."""
    dims = 16
    attention = dict(embed_dims=dims, num_heads=2, dropout=0.0, batch_first=True)
    ffn = dict(embed_dims=dims, feedforward_channels=32, num_fcs=2, ffn_drop=0.0)
    encoder_layer = dict(self_attn_cfg=attention | dict(num_levels=3, num_points=2), ffn_cfg=ffn)
    decoder_layer = dict(self_attn_cfg=attention, cross_attn_cfg=dict(attention), ffn_cfg=ffn)
    position = dict(num_feats=dims // 2, normalize=True)
    head = dict(
        type='mmext.FastMask2FormerHead',
        in_channels=[8, 16, 32, 64],
        strides=[4, 8, 16, 32],
        feat_channels=dims,
        out_channels=dims,
        num_things_classes=3,
        num_stuff_classes=0,
        num_queries=8,
        pixel_decoder=dict(
            type='mmdet.MSDeformAttnPixelDecoder',
            norm_cfg=dict(type='GN', num_groups=4),
            encoder=dict(num_layers=1, layer_cfg=encoder_layer),
            positional_encoding=position,
        ),
        positional_encoding=position,
        transformer_decoder=dict(num_layers=3, layer_cfg=decoder_layer, return_intermediate=True),
        loss_cls=dict(type='mmdet.CrossEntropyLoss', class_weight=[1.0, 1.0, 1.0, 0.1]),
        loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True),
        loss_dice=dict(type='mmdet.DiceLoss', naive_dice=True, eps=1.0),
    )
    costs = [
        dict(type='mmdet.ClassificationCost', weight=2.0),
        dict(type='mmdet.CrossEntropyLossCost', weight=5.0),
        dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0),
    ]
    return ConfigDict(
        type='mmdet.Mask2Former',
        data_preprocessor=dict(
            type='mmdet.DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_mask=True,
            pad_size_divisor=32,
        ),
        backbone=dict(type='mmdet.ResNet', depth=18, stem_channels=8, base_channels=8),
        panoptic_head=head,
        panoptic_fusion_head=dict(
            type='mmext.QueryFusionHead', num_things_classes=3, num_stuff_classes=0
        ),
        train_cfg=dict(
            num_points=64,
            assigner=dict(type='mmdet.HungarianAssigner', match_costs=costs),
            sampler=dict(type='mmdet.MaskPseudoSampler'),
        ),
        test_cfg=dict(panoptic_on=False, instance_on=True, max_per_image=3),
    )


def query_seg_neck() -> dict:
    """A query decoder on a feature pyramid of the same backbone."""
    model = query_seg()
    model.neck = dict(type='mmdet.FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4)
    model.panoptic_head = dict(
        type='mmext.QuerySegHead',
        in_channels=[16, 16, 16, 16],
        num_things_classes=3,
        num_stuff_classes=0,
        decoder=dict(
            type='mmext.QueryMaskDecoder',
            embed_dims=16,
            num_heads=2,
            num_queries=8,
            num_layers=4,
            feedforward_channels=32,
        ),
        criterion=dict(type='mmext.QueryCriterion', num_points=64),
    )
    model.train_cfg = None
    return model


def query_seg_semantic() -> dict:
    """`query_seg` for classes of pixels, in mmseg's segmentor."""
    model = query_seg()
    head = model.panoptic_head
    head.update(
        type='mmext.FastMask2FormerSegHead',
        num_classes=head.pop('num_things_classes'),
        align_corners=False,
        train_cfg=model.train_cfg,
    )
    del head['num_stuff_classes']
    return ConfigDict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=segformer()['data_preprocessor'],
        backbone=model.backbone,
        decode_head=head,
        test_cfg=dict(mode='whole'),
    )


def segformer() -> dict:
    """SegFormer with one block for each stage, at a quarter of B0's width."""
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg.SegDataPreProcessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            size_divisor=32,
            test_cfg=dict(size_divisor=32),
        ),
        backbone=dict(
            type='mmext.MixVisionTransformer',
            embed_dims=8,
            num_layers=(1, 1, 1, 1),
            drop_path_rate=0.1,
        ),
        decode_head=dict(
            type='mmext.SegformerMLPHead',
            in_channels=(8, 16, 40, 64),
            channels=16,
            num_classes=3,
            loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
        ),
        # As a config file has it: mmseg reads it by attributes.
        test_cfg=ConfigDict(mode='whole'),
    )


SYSTEMS = {
    'yolo-segment-v8': yolo_segment('v8'),
    'yolo-segment-v11': yolo_segment('v11'),
    'yolo-segment-nms-free': yolo_segment_nms_free(),
    'yolo-segment-enhanced': yolo_segment_enhanced(),
    'yolo-segment-attention': yolo_segment_attention('matched'),
    'yolo-segment-attention-seeded': yolo_segment_attention('seeded', num_seeds=4),
    'deim-atto': deim_atto(),
    'deim-s': deim_s(),
    'deim-text': deim_text(),
    'localizer-votes': localizer(
        dict(type='mmext.VoteHead', in_channels=[16, 16, 16], feat_channels=16, num_bins=5)
    ),
    'localizer-plain': localizer(dict(type='mmext.LocalizerHead', in_channels=16, bounded=True)),
    'attn-unet-r18': attn_unet_resnet(),
    'attn-unet-light': attn_unet_light(),
    'segformer': segformer(),
    'query-seg': query_seg(),
    'query-seg-neck': query_seg_neck(),
    'query-seg-semantic': query_seg_semantic(),
}
# Take seconds per promise, or are another of these with one setting changed, whose difference has tests of its own.
SLOW = {
    'deim-s',
    'query-seg',
    'yolo-segment-attention-seeded',
    'yolo-segment-nms-free',
    'query-seg-neck',
    'query-seg-semantic',
}
