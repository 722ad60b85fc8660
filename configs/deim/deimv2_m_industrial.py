"""DEIMv2-M on photos of industrial defects: six classes, 100 epochs, one small GPU (batches of 2, mixed precision).

The recipe of the mission: flat rate for 70 epochs, the last 10 without augmentation, no mosaic and no copy-blend, which
would show defects on parts that have none. `weights/vittplus_distill.pt` is the pretrained backbone. `load_from` may name a
converted COCO checkpoint (`tools/convert_weights.py deimv2_m.pth m.pth --source deim`), of which all but the class layers is kept;
then set `model.backbone.checkpoint=None`. Not trained here: the photos are not public, and a CPU would need days.

Another number of epochs: change `max_epochs` in the file; the rest follows. (`--cfg-options train_cfg.max_epochs=50` would change
the length of training alone, and be told so.)

    python tools/train.py configs/deim/deimv2_m_industrial.py
    python tools/test.py configs/deim/deimv2_m_industrial.py work_dirs/deimv2_m_industrial/epoch_100.pth
"""

_base_ = ['../_base_/datasets/industrial.py', '../_base_/runtime/default.py']

# What changes in the course of training. For another length change max_epochs: the rest follows.
max_epochs = 100
no_aug_epochs = 10
stop_epoch = max_epochs - no_aug_epochs
flat_epochs = max_epochs * 7 // 10
change_epoch = stop_epoch * 8 // 9

model = dict(
    type='mmext.DEIM',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        batch_augments=[dict(type='mmext.BatchMixUp', prob=0.15, epochs=(0, stop_epoch))],
    ),
    backbone=dict(
        type='mmext.DINOv3STA',
        arch='vit_tiny_plus',
        sta_channels=16,
        out_channels=256,
        checkpoint='weights/vittplus_distill.pt',
    ),
    neck=dict(
        type='mmext.HybridEncoder',
        ffn_channels=512,
        in_channels=(256, 256, 256),
        out_channels=256,
        block='e5',
        csp_channels=85,
        num_csp_blocks=3,
    ),
    decoder=dict(
        type='mmext.DEIMTransformer',
        num_classes=6,
        in_channels=[256, 256, 256],
        embed_dims=256,
        num_queries=300,
        num_layers=4,
        feedforward_channels=512,
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
    dict(type='mmext.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    # Not in the last epochs.
    dict(
        type='mmext.InEpochs',
        epochs=(0, stop_epoch),
        transforms=[
            dict(type='mmext.PhotometricDistortion', prob=0.3),
            dict(type='mmext.IoUCrop', prob=0.5),
        ],
    ),
    dict(type='mmext.DropSmallObjects', min_side=1),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False, backend='pillow'),
    dict(type='mmext.DropSmallObjects', min_side=1),
    dict(type='mmdet.PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    # bfloat16 on a CPU: tools/train.py sees to it.
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    # The first pattern that fits; the rest has the rate above.
    constructor='mmext.PatternOptimWrapperConstructor',
    paramwise_cfg=dict(
        patterns=[
            dict(pattern=r'^backbone\.dinov3\..*(norm|bias|gamma)', lr=4e-5, weight_decay=0.0),
            dict(pattern=r'^backbone\.dinov3\.', lr=4e-5),
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
        # Of 35,000 iterations with 700 photos.
        warmup=2000,
        end=max_epochs,
        gamma=0.5,
        convert_to_iter_based=True,
    )
]
auto_scale_lr = dict(enable=False, base_batch_size=2)

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
