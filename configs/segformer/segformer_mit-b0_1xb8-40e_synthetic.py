"""SegFormer B0 on synthetic defects, six classes, from scratch on a CPU.

Data: `tools/make_synthetic.py data/synthetic_semantic --num-train 800 --semantic` (800 pictures for training, 100 for validation).
4000 steps of about 0.45 s of one core. Seed 0: mIoU 58.0, below the aim of 70; with one rate of 1e-3 for encoder and head and windows of 192
pixels it was 16.5, all background, after 800 steps. See README.md.

    python tools/train.py configs/segformer/segformer_mit-b0_1xb8-40e_synthetic.py
    python tools/test.py configs/segformer/segformer_mit-b0_1xb8-40e_synthetic.py work_dirs/segformer_mit-b0_1xb8-32e_synthetic/epoch_40.pth
"""

_base_ = ['../_base_/datasets/synthetic_semantic.py', '../_base_/runtime/semantic.py']

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(160, 160),
        # Photos are not padded in tests, but for thin ones, which the encoder cannot take.
        test_cfg=dict(size=(32, 32)),
    ),
    backbone=dict(
        type='mmext.MixVisionTransformer',
        embed_dims=32,
        num_layers=(2, 2, 2, 2),
        num_heads=(1, 2, 5, 8),
        sr_ratios=(8, 4, 2, 1),
        # So short a training fits no noise: nothing is dropped, here and in the head.
        drop_path_rate=0.0,
        patch_eps=1e-5,
        block_eps=1e-6,
        stage_eps=1e-6,
        checkpoint=None,
    ),
    decode_head=dict(
        type='mmext.SegformerMLPHead',
        in_channels=(32, 64, 160, 256),
        # Half the published width, in two thirds of its time.
        channels=128,
        num_classes=6,
        dropout_ratio=0.0,
        dropout_type='Dropout2d',
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=[
            dict(type='CrossEntropyLoss', avg_non_ignore=True, loss_weight=1.0),
            # Each class that a batch shows weighs as much, however few pixels it has.
            dict(type='mmext.ClassDiceLoss', loss_weight=1.0),
        ],
    ),
    # Windows as large as those of training: on whole pictures its attention has ten times as many keys as it has learnt with,
    # and sees dents everywhere (mIoU 50.7 instead of 58.0).
    test_cfg=dict(mode='slide', crop_size=(160, 160), stride=(112, 112)),
)

max_epochs = 40
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# Ten times the published rates, the head's ten times the encoder's as published: with one rate for all the first 250
# steps bring no more than the frequencies of the classes.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys=dict(decode_head=dict(lr_mult=10.0))
    ),
    clip_grad=dict(max_norm=5.0),
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
    # Compares maps of classes, metainfo and heads before the first step; a wrong set-up stops here.
    dict(type='mmext.PreflightHook'),
    dict(type='mmext.FiniteLossHook'),
    # A horizon of 200 steps.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=5e-3,
        gamma=100,
        update_buffers=True,
        priority=49,
    ),
]

default_hooks = dict(checkpoint=dict(interval=10))
