"""DEIMv2-Pico on COCO 2017: HGNetv2 Pico, 640 px, 1.54 M parameters in training; published AP 38.5 on COCO val2017.

The published recipe (https://arxiv.org/abs/2509.20787), 500 epochs in batches of 128. Not trained here.
`weights/PPHGNetV2_B0_stage1.pth` is the pretrained backbone. Without the file training stops;
`model.backbone.checkpoint=None` trains from random weights.

    bash tools/dist_train.sh configs/deim/deimv2_pico_coco.py 4 --amp
    python tools/test.py configs/deim/deimv2_pico_coco.py CHECKPOINT

On one GPU, with batches of 32 instead of 128: `--auto-scale-lr` divides the rates by 4, as it must, since the losses are means;
`train_dataloader.batch_size=128` needs no such change where the memory suffices.

    python tools/train.py configs/deim/deimv2_pico_coco.py --amp --auto-scale-lr
"""

_base_ = ['../_base_/datasets/coco_detection.py', '../_base_/runtime/default.py']

# What changes in the course of training. For another length change max_epochs: the rest follows.
max_epochs = 500
no_aug_epochs = 32
stop_epoch = max_epochs - no_aug_epochs
flat_epochs = max_epochs // 2
strong_epochs = min(max_epochs * 4 // 5, stop_epoch)
change_epoch = stop_epoch * 25 // 26

model = dict(
    type='mmext.DEIM',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        # HGNetv2 wants [0, 1], without ImageNet's mean and deviation.
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='mmext.HGNetv2',
        arch='pico',
        out_indices=(2,),
        checkpoint='weights/PPHGNetV2_B0_stage1.pth',
    ),
    neck=dict(
        type='mmext.LiteEncoder',
        in_channels=(512,),
        out_channels=112,
        block='e4',
        csp_channels=19,
        num_csp_blocks=2,
    ),
    decoder=dict(
        type='mmext.DEIMTransformer',
        num_classes=80,
        in_channels=[112, 112],
        embed_dims=112,
        num_queries=200,
        num_layers=3,
        feedforward_channels=320,
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
        epochs=(4, strong_epochs),
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
    dict(type='mmext.DropSmallObjects', min_side=8),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False, backend='pillow'),
    dict(type='mmext.DropSmallObjects', min_side=8),
    dict(type='mmdet.PackDetInputs'),
]
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# The statistics of batch norm are those of all processes together, as in the published training.
sync_bn = 'torch'
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.6e-3, betas=(0.9, 0.999), weight_decay=1e-4),
    # The first pattern that fits; the rest has the rate above.
    constructor='mmext.PatternOptimWrapperConstructor',
    paramwise_cfg=dict(
        patterns=[
            dict(pattern=r'^backbone\..*\.(bn|lab)\.', lr=8e-4, weight_decay=0.0),
            dict(pattern=r'^backbone\.', lr=8e-4),
            dict(pattern=r'norm|bias|down_sample\d\.2\.', weight_decay=0.0),
        ]
    ),
    clip_grad=dict(max_norm=0.1),
)
param_scheduler = [
    dict(
        type='mmext.FlatCosineLR',
        flat=flat_epochs,
        no_aug=no_aug_epochs,
        warmup=4000,
        end=max_epochs,
        gamma=0.5,
        convert_to_iter_based=True,
    )
]
auto_scale_lr = dict(enable=False, base_batch_size=128)

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
