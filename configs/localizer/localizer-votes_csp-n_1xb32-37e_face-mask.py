"""The default localizer on photos with one face, from scratch: the backbone of YOLOv8n, votes for the box.

Data: `tools/convert_dataset.py face_mask RAW data/face_mask --csv` (264 training and 65 validation photos, 3 classes).

    python tools/train.py configs/localizer/localizer-votes_csp-n_1xb32-37e_face-mask.py
    python tools/test.py configs/localizer/localizer-votes_csp-n_1xb32-37e_face-mask.py CHECKPOINT

296 iterations, 13 to 18 minutes of one busy CPU core. README.md has the scores.
"""

_base_ = ['../_base_/datasets/face_mask.py', '../_base_/runtime/default.py']

model = dict(
    type='mmext.SingleObjectLocalizer',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    # Two thirds of the time of a ResNet-18 of half the width, with which the head finds boxes worse (README.md).
    backbone=dict(
        type='mmext.CSPBackbone',
        version='v8',
        deepen_factor=0.33,
        widen_factor=0.25,
        out_indices=(2, 3, 4),
        # YOLO's momentum of 0.03 is for long trainings.
        norm_cfg=dict(type='BN'),
    ),
    head=dict(
        type='mmext.VoteHead',
        in_channels=[64, 128, 256],
        num_classes=3,
        feat_channels=96,
        loss=dict(
            type='mmext.LocalizationLoss',
            alpha=0.7,
            loss_box=dict(type='GIoULoss', loss_weight=1.0),
        ),
    ),
)

max_epochs = 37
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
    constructor='mmext.PatternOptimWrapperConstructor',
    # Batch norms and biases do not decay.
    paramwise_cfg=dict(patterns=[dict(pattern=r'\.bn\.|bias', weight_decay=0.0)]),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=24),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.01,
        begin=3,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=32)

custom_hooks = [
    dict(type='mmext.PreflightHook'),
    dict(type='mmext.ChannelsLastHook'),
    dict(type='mmext.FiniteLossHook'),
    # A horizon of 50 steps.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=0.02,
        gamma=50,
        update_buffers=True,
        priority=49,
    ),
    dict(
        type='EarlyStoppingHook',
        monitor='localizer/IoU',
        rule='greater',
        patience=10,
        min_delta=0.0,
    ),
    dict(type='mmext.RestoreBestHook'),
]
default_hooks = dict(
    logger=dict(interval=8),
    checkpoint=dict(max_keep_ckpts=1, save_best='localizer/IoU', rule='greater'),
)
