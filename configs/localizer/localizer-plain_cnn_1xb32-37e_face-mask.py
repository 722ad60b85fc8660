"""The mission's own recipe on photos with one face, from scratch: a plain CNN, global pooling, two perceptrons.

Data: `tools/convert_dataset.py face_mask RAW data/face_mask --csv` (264 training and 65 validation photos, 3 classes).

    python tools/train.py configs/localizer/localizer-plain_cnn_1xb32-37e_face-mask.py
    python tools/test.py configs/localizer/localizer-plain_cnn_1xb32-37e_face-mask.py CHECKPOINT

Nothing is changed but the end: as many iterations as the default has. README.md has the scores.
"""

_base_ = ['../_base_/datasets/face_mask.py', '../_base_/runtime/default.py']

image_size = (256, 256)

model = dict(
    type='mmext.SingleObjectLocalizer',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
    ),
    backbone=dict(type='mmext.LocalizerCNN', channels=(32, 64, 128, 256)),
    head=dict(
        type='mmext.LocalizerHead',
        in_channels=256,
        num_classes=3,
        bounded=True,
        loss=dict(
            type='mmext.LocalizationLoss',
            alpha=0.7,
            class_weight='balanced',
            loss_box=dict(type='MSELoss', loss_weight=1.0),
        ),
    ),
)

train_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Resize', scale=image_size, keep_ratio=False),
    dict(
        type='mmext.Albumentations',
        transforms=[
            dict(type='HorizontalFlip', p=0.5),
            dict(type='RandomBrightnessContrast', p=0.3),
            dict(type='MotionBlur', p=0.4),
            dict(type='HueSaturationValue', p=0.3),
            dict(type='Affine', scale=(0.9, 1.1), translate_percent=(-0.0625, 0.0625), p=0.2),
        ],
        keep_objects=True,
    ),
    dict(type='mmdet.PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=37, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4, fused=True),
    constructor='mmext.PatternOptimWrapperConstructor',
    paramwise_cfg=dict(patterns=[dict(pattern=r'^head\.box_branch\.', lr=1e-3)]),
)
# The rates stay as they are.
param_scheduler = [dict(type='ConstantLR', factor=1.0)]
auto_scale_lr = dict(enable=False, base_batch_size=32)

custom_hooks = [
    dict(type='mmext.PreflightHook'),
    dict(type='mmext.ClassWeightHook'),
    dict(type='mmext.ChannelsLastHook'),
    dict(type='mmext.FiniteLossHook'),
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
