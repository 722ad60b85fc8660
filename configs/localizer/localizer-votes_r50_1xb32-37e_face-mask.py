"""The default localizer on a ResNet-50, for photos with one face and a GPU.

Data: `tools/convert_dataset.py face_mask RAW data/face_mask --csv` (264 training and 65 validation photos, 3 classes).
Weights: those of torchvision's ResNet-50, by path; without them it starts from scratch.

    python tools/train.py configs/localizer/localizer-votes_r50_1xb32-37e_face-mask.py --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=resnet50.pth

README.md has the other backbones that can take its place, and their weights.
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
    backbone=dict(type='ResNet', depth=50, out_indices=(1, 2, 3), norm_eval=False),
    head=dict(
        type='mmext.VoteHead',
        in_channels=[512, 1024, 2048],
        num_classes=3,
        feat_channels=128,
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
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05, fused=True),
    constructor='mmext.PatternOptimWrapperConstructor',
    # The backbone slower than the head, as it has learnt already; batch norms and biases do not decay.
    paramwise_cfg=dict(
        patterns=[
            dict(pattern=r'^backbone\..*(bn|downsample\.1\.)', lr=1e-4, weight_decay=0.0),
            dict(pattern=r'^backbone\.', lr=1e-4),
            dict(pattern=r'bn|bias', weight_decay=0.0),
        ]
    ),
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
