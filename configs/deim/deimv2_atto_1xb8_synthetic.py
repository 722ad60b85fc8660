"""DEIMv2-Atto on synthetic defects, from scratch, on two CPU cores.

Data: `tools/make_synthetic.py data/synthetic --num-train 400 --num-val 80` (brushed metal, 256 px, 5 defect classes; images of the
class NORMAL have no objects).

    python tools/train.py configs/deim/deimv2_atto_1xb8_synthetic.py
    python tools/test.py configs/deim/deimv2_atto_1xb8_synthetic.py work_dirs/deimv2_atto_1xb8_synthetic/epoch_60.pth

What differs from the published recipe (made for 500 epochs of 118,000 photos in batches of 128) stands beside each setting;
README.md has the scores.
"""

_base_ = ['../_base_/datasets/synthetic_defects.py', '../_base_/runtime/default.py']

# What changes in the course of training. For another length change max_epochs: the rest follows.
max_epochs = 60
no_aug_epochs = 5
flat_epochs = max_epochs // 2
mixup_epochs = max_epochs * 2 // 3
blend_epochs = max_epochs * 5 // 6
change_epoch = max_epochs * 9 // 10

model = dict(
    type='mmext.DEIM',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        # HGNetv2 wants [0, 1], without ImageNet's mean and deviation.
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        # Denser one-to-one targets: an image has two defects.
        batch_augments=[
            dict(
                type='mmext.BatchFirstOf',
                augments=[
                    dict(type='mmext.BatchMixUp', prob=0.2, epochs=(2, mixup_epochs)),
                    dict(type='mmext.BatchCopyBlend', prob=0.5, epochs=(2, blend_epochs)),
                ],
            )
        ],
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
        num_classes=5,
        in_channels=[64, 64],
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
        matcher=dict(type='mmext.DEIMMatcher', change_epoch=change_epoch),
        loss_weights=dict(mal=1.0, bbox=5.0, giou=2.0),
    ),
    test_cfg=dict(max_per_img=100),
)

train_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmext.LetterBox', scale=(256, 256)),
    dict(type='mmext.PhotometricDistortion', prob=0.5),
    # Metal has no up, down, left or right.
    dict(
        type='mmdet.RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    dict(type='mmdet.PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    # One rate for all: nothing is pretrained.
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4, fused=True),
    constructor='mmext.PatternOptimWrapperConstructor',
    paramwise_cfg=dict(
        patterns=[
            dict(pattern=r'\.(bn|lab)\.|norm|bias|down_sample\d\.2\.', weight_decay=0.0),
        ]
    ),
    clip_grad=dict(max_norm=0.1),
)
param_scheduler = [
    dict(
        type='mmext.FlatCosineLR',
        flat=flat_epochs,
        no_aug=no_aug_epochs,
        # 4000 iterations would be most of the training.
        warmup=200,
        end=max_epochs,
        gamma=0.05,
        convert_to_iter_based=True,
    )
]
auto_scale_lr = dict(enable=False, base_batch_size=8)

custom_hooks = [
    # Compares annotations, metainfo and heads before the first step; a wrong set-up stops here.
    dict(type='mmext.PreflightHook'),
    dict(type='mmext.ChannelsLastHook'),
    dict(type='mmdet.SetEpochInfoHook'),
    dict(type='mmext.EpochWindowsHook'),
    dict(type='mmext.FiniteLossHook'),
    # A horizon of 250 steps; the published 10,000 would still hold the first weights at the end.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=4e-3,
        gamma=200,
        update_buffers=True,
        priority=49,
    ),
]

default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP', rule='greater'))
val_evaluator = dict(metric='bbox')
test_evaluator = dict(metric='bbox')
