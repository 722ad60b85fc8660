"""SegmentAttention on a YOLOv8n, synthetic defects, from scratch, on two CPU cores.

Data: `tools/make_synthetic.py data/synthetic --num-train 400 --num-val 80` (brushed metal, 256 px, 5 defect classes; images of the
class NORMAL have no objects).

    python tools/train.py configs/yolo/segment-attention_v8n_1xb8-12e_synthetic.py
    python tools/test.py configs/yolo/segment-attention_v8n_1xb8-12e_synthetic.py work_dirs/segment-attention_v8n_1xb8-12e_synthetic/epoch_12.pth

The recipe is that of `segment_v8n_1xb8-12e_synthetic.py`, with a query decoder next to the head, at a lower rate than the
convolutions. Half the published decoder's width and queries: an image of 256 px holds few objects.
"""

_base_ = ['../_base_/datasets/synthetic_defects.py', '../_base_/runtime/default.py']

model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    # Statistics of batch norm with a horizon of tens of steps: the published momentum of 0.03 is for long runs.
    backbone=dict(
        type='mmext.CSPBackbone',
        version='v8',
        deepen_factor=0.33,
        widen_factor=0.25,
        max_channels=1024,
        norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3),
        act_cfg=dict(type='SiLU', inplace=False),
    ),
    neck=dict(
        type='mmext.CSPPAN',
        version='v8',
        in_channels=[64, 128, 256],
        out_channels=[64, 128, 256],
        deepen_factor=0.33,
        norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3),
        act_cfg=dict(type='SiLU', inplace=False),
    ),
    bbox_head=dict(
        type='mmext.SegmentAttention',
        det=dict(
            type='mmext.Segment',
            version='v8',
            num_classes=5,
            in_channels=[64, 128, 256],
            strides=(8, 16, 32),
            reg_max=16,
            num_prototypes=32,
            norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3),
            act_cfg=dict(type='SiLU', inplace=False),
            proto=dict(type='mmext.Proto', hidden_channels=64),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
            loss_bbox=dict(type='mmext.CIoULoss', loss_weight=7.5),
            loss_dfl=dict(type='mmext.BoxDistributionLoss', loss_weight=1.5),
            # Points keep full-resolution targets: a 4 x 4 average erases cracks of two pixels.
            loss_mask=dict(
                type='mmext.PointMaskLoss', loss_weight=7.5, num_points=512, mask_stride=1
            ),
            # AdamW wants a mean; the sum over the batch belongs to SGD at 0.01.
            loss_scale='mean',
            class_prior=0.01,
            # Boxes start 4 cells wide instead of 15, so that the first assignments overlap at all.
            box_prior=2.0,
        ),
        decoder=dict(
            type='mmext.QueryMaskDecoder',
            embed_dims=128,
            num_heads=8,
            num_queries=0,
            # Each level (strides 32, 16, 8) is seen twice.
            num_layers=6,
            feedforward_channels=512,
            # Before the first layer a query's own mask is noise, its detection's box is not.
            num_box_layers=1,
        ),
        # Queries start from detections, so that whose object is whose is known from the first step.
        num_seeds=50,
        # Few images, few objects: each of them teaches four queries.
        seeds_per_object=4,
        # With seven outputs of the decoder in the loss, the queries' gradients at P3, P4 and P5 were 3.4, 24 and 382 times
        # the detections' on a trained model, at right angles to them (cosine about 0): boxes lost 5 points of AP. Now a tenth.
        query_grad_scale=0.1,
        # A fifth of the published 12544 points: these masks have 64 x 64 pixels, not 256 x 256. Half of them lie around
        # their object, which has a hundredth of the image.
        criterion=dict(type='mmext.QueryCriterion', num_points=2560, box_point_ratio=0.5),
    ),
    train_cfg=dict(
        assigner=dict(
            type='mmext.BatchTALAssigner',
            topk=10,
            alpha=0.5,
            beta=6.0,
            # An object of a few pixels, between the centres of cells, still gets cells.
            min_gt_side=16.0,
            # Positives of a poor overlap still teach their class: without it nothing starts for small objects.
            min_quality=0.1,
        )
    ),
    test_cfg=dict(
        # Queries need longer than prototypes: where a query does not agree with a detection, its prototypes make the mask.
        mode='matched',
        score_thr=0.001,
        nms_pre=30000,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
        multi_label=True,
        mask_thr_binary=0.5,
        mask_format='rle',
    ),
)

max_epochs = 12
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# AdamW learns from few steps; `fused` saves the passes over hundreds of small tensors. Attention wants a lower rate than
# convolutions. With seven outputs of the decoder in the loss, the clip is always at work, as the published 0.01 is: AdamW
# does not feel a common factor, but it does feel a single step of a hundred times the gradient.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05, fused=True),
    constructor='mmext.YOLOOptimWrapperConstructor',
    paramwise_cfg=dict(
        custom_keys={
            'bbox_head.decoder': dict(lr_mult=0.25),
            # Embeddings, which must not decay although they are matrices.
            'bbox_head.decoder.level_embed': dict(lr_mult=0.25, decay_mult=0.0),
        }
    ),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.01,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)

custom_hooks = [
    # Compares annotations, metainfo and heads before the first step; a wrong set-up stops here.
    dict(type='mmext.PreflightHook'),
    dict(type='mmext.ChannelsLastHook'),
    # A horizon of 100 steps out of 600.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=1e-2,
        gamma=100,
        update_buffers=True,
        priority=49,
    ),
]

default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP', rule='greater'))
