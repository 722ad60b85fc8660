"""DEIMv2-Atto on synthetic defects that look alike, from scratch, on two CPU cores: the training without texts.

Data: `tools/make_synthetic.py data/look-alike --preset look-alike --num-train 100 --num-val 200` (brushed metal, 256 px; a mark on the
surface and a damage of the same outline in it, three pairs of classes).

    python tools/train.py configs/deim/deimv2_atto_1xb8-30e_look-alike.py
    python tools/test.py configs/deim/deimv2_atto_1xb8-30e_look-alike.py work_dirs/deimv2_atto_1xb8-30e_look-alike/epoch_30.pth

Then `deimv2-text_atto_1xb8-20e_look-alike.py` goes on with a sentence for each class. The recipe is that of `deimv2_atto_1xb8_synthetic.py`,
for as many steps.
"""

_base_ = ['../_base_/datasets/look_alike.py', '../_base_/runtime/default.py']

# What changes in the course of training. For another length change max_epochs: the rest follows.
max_epochs = 30
no_aug_epochs = 3
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
                    dict(type='mmext.BatchMixUp', prob=0.2, epochs=(1, mixup_epochs)),
                    dict(type='mmext.BatchCopyBlend', prob=0.5, epochs=(1, blend_epochs)),
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
        num_classes=6,
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

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
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
