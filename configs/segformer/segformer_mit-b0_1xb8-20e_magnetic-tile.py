"""SegFormer B0 on magnetic tiles, background and five defects, from scratch on a CPU.

Data: `tools/convert_dataset.py magnetic_tile RAW data/magnetic_tile_semantic --semantic` (936 photos for training, 207 for
validation, 195 for the test). Not trained here yet.

    python tools/train.py configs/segformer/segformer_mit-b0_1xb8-20e_magnetic-tile.py
    python tools/test.py configs/segformer/segformer_mit-b0_1xb8-20e_magnetic-tile.py work_dirs/segformer_mit-b0_1xb8-20e_magnetic-tile/epoch_20.pth
"""

_base_ = ['../_base_/datasets/magnetic_tile_semantic.py', '../_base_/runtime/semantic.py']

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        # About black. Of 0 the first convolution, whose bias starts at 0, would make tokens of zeros, and every norm
        # behind it a gradient a thousand times larger.
        pad_val=-2.0,
        seg_pad_val=255,
        size=(192, 192),
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
    test_cfg=dict(mode='whole'),
)

max_epochs = 20
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# Ten times the published rates: nothing is pretrained.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=True),
    # The head's rate is ten times the encoder's, as published: it learns twice as fast at the start.
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

default_hooks = dict(checkpoint=dict(interval=5))
