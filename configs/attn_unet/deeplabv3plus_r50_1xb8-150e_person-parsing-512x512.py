"""DeepLabV3+ with ResNet-50, two classes, on person_parsing at 512 px: a baseline of mmseg for the Attention U-Net, on the same photos,
with the same augmentation and schedule, scored by the same evaluator.

Data: `tools/convert_dataset.py person_parsing RAW data/person_parsing` (200 training photos). Weights of the encoder:
torchvision's resnet50-0676ba61.pth, which nothing downloads. Not trained here.

    python tools/train.py configs/attn_unet/deeplabv3plus_r50_1xb8-150e_person-parsing-512x512.py
    python tools/test.py configs/attn_unet/deeplabv3plus_r50_1xb8-150e_person-parsing-512x512.py work_dirs/deeplabv3plus_r50_1xb8-150e_person-parsing-512x512/epoch_150.pth

It learns from the matte cut at 0.5; its probability of the foreground is scored as the alpha.
"""

_base_ = ['../_base_/datasets/person_parsing.py', '../_base_/runtime/default.py']

default_scope = 'mmseg'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
        test_cfg=dict(size_divisor=32),
    ),
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/resnet50-0676ba61.pth'),
    ),
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=2048,
        in_index=3,
        channels=512,
        dilations=(1, 12, 24, 36),
        c1_in_channels=256,
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=1024,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    test_cfg=dict(mode='whole'),
)

train_pipeline = [
    *_base_.train_pipeline_512[:-1],
    dict(type='mmext.AlphaToSegMap'),
    dict(type='mmext.PackMatteInputs'),
]
train_dataloader = dict(num_workers=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=2, dataset=dict(pipeline=_base_.test_pipeline_512))
test_dataloader = dict(num_workers=2, dataset=dict(pipeline=_base_.test_pipeline_512))

max_epochs = 150
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='Adam', lr=1e-4, weight_decay=1e-5, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=5.0),
    loss_scale='dynamic',
)
param_scheduler = [
    dict(
        type='CosineRestartLR',
        periods=[10, 20, 40, 80],
        restart_weights=[1, 1, 1, 1],
        eta_min=1e-6,
        by_epoch=True,
    ),
    # Behind the restarts, whose first step sets the rate and would undo the start of the ramp: its later steps
    # multiply, and end at a hundred times the rate. Over with the first epoch (25 steps), before the rate is set again.
    dict(type='LinearLR', start_factor=0.01, begin=0, end=25, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)

custom_hooks = [
    dict(type='mmext.PreflightHook'),
    dict(type='mmext.FiniteLossHook'),
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=2e-3,
        gamma=400,
        update_buffers=True,
        priority=49,
    ),
]

default_hooks = dict(
    checkpoint=dict(interval=10, save_best='matte/IoU', rule='greater'),
    visualization=dict(_delete_=True, type='SegVisualizationHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(_delete_=True, type='SegLocalVisualizer', vis_backends=vis_backends)
