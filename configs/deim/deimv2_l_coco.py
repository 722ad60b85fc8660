"""DEIMv2-L on COCO 2017: DINOv3 ViT-S, 640 px, 32.55 M parameters in training; published AP 56.0 on COCO val2017.

The published recipe (https://arxiv.org/abs/2509.20787), 68 epochs in batches of 32. Not trained here.
`weights/dinov3_vits16_pretrain_lvd1689m-08c60483.pth` is the pretrained backbone. Without the file training stops;
`model.backbone.checkpoint=None` trains from random weights.

    bash tools/dist_train.sh configs/deim/deimv2_l_coco.py 4 --amp
    python tools/test.py configs/deim/deimv2_l_coco.py CHECKPOINT

On one GPU, with batches of 8 instead of 32: `--auto-scale-lr` divides the rates by 4, as it must, since the losses are means;
`train_dataloader.batch_size=32` needs no such change where the memory suffices.

    python tools/train.py configs/deim/deimv2_l_coco.py --amp --auto-scale-lr
"""

_base_ = ['../_base_/datasets/coco_detection.py', '../_base_/runtime/default.py']

# What changes in the course of training. For another length change max_epochs: the rest follows.
max_epochs = 68
no_aug_epochs = 8
stop_epoch = max_epochs - no_aug_epochs
flat_epochs = 4 + stop_epoch // 2
change_epoch = stop_epoch * 5 // 6

model = dict(
    type='mmext.DEIM',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        batch_augments=[
            # Whichever fires first, alone.
            dict(
                type='mmext.BatchFirstOf',
                augments=[
                    dict(type='mmext.BatchMixUp', prob=0.5, epochs=(4, flat_epochs)),
                    dict(type='mmext.BatchCopyBlend', prob=0.5, epochs=(4, stop_epoch)),
                ],
            ),
            dict(type='mmext.BatchRandomSize', base_size=640, repeat=3, epochs=(0, stop_epoch)),
        ],
    ),
    backbone=dict(
        type='mmext.DINOv3STA',
        arch='vits',
        sta_channels=32,
        out_channels=224,
        checkpoint='weights/dinov3_vits16_pretrain_lvd1689m-08c60483.pth',
    ),
    neck=dict(
        type='mmext.HybridEncoder',
        ffn_channels=896,
        in_channels=(224, 224, 224),
        out_channels=224,
        block='e5',
        csp_channels=112,
        num_csp_blocks=3,
    ),
    decoder=dict(
        type='mmext.DEIMTransformer',
        num_classes=80,
        in_channels=[224, 224, 224],
        embed_dims=224,
        num_queries=300,
        num_layers=4,
        feedforward_channels=1792,
        num_points=(3, 6, 3),
        gated=True,
        shares_bbox_head=False,
        reg_scale=4.0,
    ),
    criterion=dict(
        type='mmext.DEIMCriterion',
        matcher=dict(type='mmext.DEIMUnionMatcher', change_epoch=change_epoch),
        loss_weights=dict(mal=1.0, bbox=5.0, giou=2.0, fgl=0.15, ddf=1.5),
    ),
    test_cfg=dict(max_per_img=300),
)

train_pipeline = [
    # While the rate is flat: four images in one, more objects for one-to-one matching.
    dict(
        type='mmext.InEpochs',
        epochs=(4, flat_epochs),
        transforms=[dict(type='mmext.GridMosaic', short_side=320, prob=0.5)],
    ),
    dict(
        type='mmext.InEpochs',
        epochs=(4, stop_epoch),
        transforms=[
            dict(type='mmext.PhotometricDistortion', prob=0.5),
            dict(
                type='mmext.UnlessMosaic',
                transforms=[
                    dict(type='mmext.ZoomOut', prob=0.5),
                    dict(type='mmext.IoUCrop', prob=0.8),
                ],
            ),
        ],
    ),
    dict(type='mmext.DropSmallObjects', min_side=1),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False, backend='pillow'),
    dict(type='mmext.DropSmallObjects', min_side=1),
    dict(type='mmdet.PackDetInputs'),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# The statistics of batch norm are those of all processes together, as in the published training.
sync_bn = 'torch'
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=1.25e-4),
    # The first pattern that fits; the rest has the rate above.
    constructor='mmext.PatternOptimWrapperConstructor',
    paramwise_cfg=dict(
        patterns=[
            dict(pattern=r'^backbone\.dinov3\..*(norm|bias|gamma)', lr=1.25e-5, weight_decay=0.0),
            dict(pattern=r'^backbone\.dinov3\.', lr=1.25e-5),
            dict(pattern=r'norm|bias|sta\.(stem\.1|conv2\.1|conv[34]\.2)\.', weight_decay=0.0),
        ]
    ),
    clip_grad=dict(max_norm=0.1),
)
param_scheduler = [
    dict(
        type='mmext.FlatCosineLR',
        flat=flat_epochs,
        no_aug=no_aug_epochs,
        warmup=2000,
        end=max_epochs,
        gamma=0.5,
        convert_to_iter_based=True,
    )
]
auto_scale_lr = dict(enable=False, base_batch_size=32)

custom_hooks = [
    # Compares annotations, metainfo and heads before the first step; a wrong set-up stops here.
    dict(type='mmext.PreflightHook'),
    dict(type='mmdet.SetEpochInfoHook'),
    dict(type='mmext.EpochWindowsHook'),
    dict(type='mmext.FiniteLossHook'),
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=1e-4,
        gamma=1000,
        update_buffers=True,
        priority=49,
    ),
    # The last epochs, without augmentation, start from the best checkpoint before them.
    dict(type='mmext.StageTwoHook', stop_epoch=stop_epoch),
]

default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP', rule='greater'))
