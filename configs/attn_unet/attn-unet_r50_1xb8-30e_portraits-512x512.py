"""Attention U-Net on a ResNet-50 that was trained on ImageNet, drawn portraits with soft mattes at 512 px, for one GPU.

Data: `tools/make_synthetic.py data/portraits-512 --preset portraits --size 512`. Weights of the encoder: torchvision's
resnet50-0676ba61.pth, which nothing downloads; give its path as `model.backbone.checkpoint`. Not trained here.

    python tools/train.py configs/attn_unet/attn-unet_r50_1xb8-30e_portraits-512x512.py
    python tools/test.py configs/attn_unet/attn-unet_r50_1xb8-30e_portraits-512x512.py work_dirs/attn-unet_r50_1xb8-30e_portraits-512x512/best_matte_IoU_epoch_*.pth

The model is that of attn-unet_r50_1xb8-150e_person-parsing-512x512.py, which see.
"""

_base_ = ['../_base_/datasets/portraits.py', '../_base_/runtime/default.py']

default_scope = 'mmseg'

model = dict(
    type='mmext.MatteEncoderDecoder',
    data_preprocessor=dict(
        type='mmext.MattePreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size_divisor=32,
    ),
    backbone=dict(
        type='mmext.ResNetStem',
        depth=50,
        norm_cfg=dict(type='BN'),
        with_cp=False,
        checkpoint='checkpoints/resnet50-0676ba61.pth',
    ),
    decode_head=dict(
        type='mmext.AttentionUNetHead',
        in_channels=(64, 256, 512, 1024, 2048),
        stage_channels=(256, 128, 64, 32, 16),
        gate=dict(type='mmext.AttentionGate'),
        num_logits=1,
        threshold=0.5,
        skip_dropout=0.1,
        centre_dropout=0.2,
        norm_cfg=dict(type='BN'),
        loss_decode=[
            dict(type='mmext.MatteBCELoss', loss_weight=1.0),
            dict(type='mmext.MatteDiceLoss', loss_weight=1.0),
            # The encoder's own first levels; the path of vgg16-397923af.pth takes those of VGG16 instead.
            dict(type='mmext.PerceptualLoss', loss_weight=0.5, feature_net='encoder'),
            dict(type='mmext.AlphaEdgeLoss', loss_weight=0.3),
        ],
    ),
    test_cfg=dict(mode='whole'),
)

data_root = 'data/portraits-512/'
train_dataloader = dict(
    num_workers=4, dataset=dict(data_root=data_root, pipeline=_base_.train_pipeline_512)
)
val_dataloader = dict(
    num_workers=2, dataset=dict(data_root=data_root, pipeline=_base_.test_pipeline_512)
)
test_dataloader = dict(
    num_workers=2, dataset=dict(data_root=data_root, pipeline=_base_.test_pipeline_512)
)

max_epochs = 30
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# On a CPU `tools/train.py` takes bfloat16 instead of float16.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='Adam', lr=1e-4, weight_decay=1e-5, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=5.0),
    loss_scale='dynamic',
)
param_scheduler = [
    # T0 10, doubled after each restart. They must add up to no less than max_epochs.
    dict(
        type='CosineRestartLR',
        periods=[10, 20],
        restart_weights=[1, 1],
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
    dict(type='mmext.ChannelsLastHook'),
    # A horizon of 500 steps.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=2e-3,
        gamma=400,
        update_buffers=True,
        priority=49,
    ),
    # 20 epochs without a better score: a restart costs some, and the last period is that long.
    dict(type='EarlyStoppingHook', monitor='matte/IoU', rule='greater', min_delta=1e-4, patience=4),
]

default_hooks = dict(
    checkpoint=dict(interval=10, save_best='matte/IoU', rule='greater'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(_delete_=True, type='mmext.MatteVisualizer', vis_backends=vis_backends)

# For `tools/test.py --tta`; the views are those of `tta_pipeline`.
tta_model = dict(type='mmext.MatteTTAModel')
tta_pipeline = _base_.tta_pipeline_512
