"""A query decoder on the backbone and neck of YOLOv8n, synthetic defects, from scratch.

Data: `tools/make_synthetic.py data/synthetic`.

    python tools/train.py configs/query_seg/query-seg_v8n_1xb8-24e_synthetic.py
    python tools/test.py configs/query_seg/query-seg_v8n_1xb8-24e_synthetic.py work_dirs/query-seg_v8n_1xb8-24e_synthetic/epoch_24.pth

What Mask2Former's pixel decoder does, the neck has done; any other neck of mmdet or mmext goes here, with its channels in
`panoptic_head.in_channels`. No detections and no suppression: a query is an object or none. Not trained here.
"""

_base_ = ['../_base_/datasets/synthetic_defects.py', '../_base_/runtime/default.py']

num_classes = 5
model = dict(
    type='Mask2Former',
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
    panoptic_head=dict(
        type='mmext.QuerySegHead',
        in_channels=[64, 128, 256],
        num_things_classes=num_classes,
        num_stuff_classes=0,
        decoder=dict(
            type='mmext.QueryMaskDecoder',
            embed_dims=128,
            num_heads=8,
            num_queries=50,
            # Each map (strides 32, 16, 8) is seen once.
            num_layers=3,
            feedforward_channels=512,
        ),
        # A fifth of the published 12544: these masks have 64 x 64 pixels, not 256 x 256.
        criterion=dict(type='mmext.QueryCriterion', num_points=2560),
    ),
    panoptic_fusion_head=dict(
        type='mmext.QueryFusionHead', num_things_classes=num_classes, num_stuff_classes=0
    ),
    test_cfg=dict(panoptic_on=False, semantic_on=False, instance_on=True, max_per_image=100),
)

max_epochs = 24
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# With four outputs of the decoder in the loss, the clip cuts single steps only. Embeddings must not decay although they
# are matrices.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        custom_keys={
            'decoder.queries': dict(decay_mult=0.0),
            'decoder.level_embed': dict(decay_mult=0.0),
        },
        norm_decay_mult=0.0,
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
    dict(type='mmext.FiniteLossHook'),
    # A horizon of 100 steps.
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
