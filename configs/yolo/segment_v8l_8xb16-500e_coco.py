"""YOLOv8l-seg on COCO, from scratch, 8 GPUs x 16 images, 500 epochs.

Data: COCO 2017 in data/coco/. Published for this architecture: box / mask AP 52.3 / 42.6 on val2017 at 640 px (its own
trainer and weights; this config has not been trained here: no GPU and no COCO at hand).

    tools/dist_train.sh configs/yolo/segment_v8l_8xb16-500e_coco.py 8
"""

_base_ = [
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/yolo_sgd.py',
    '../_base_/runtime/default.py',
]

model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='mmext.CSPBackbone',
        version='v8',
        deepen_factor=1.0,
        widen_factor=1.0,
        max_channels=512,
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-3),
        act_cfg=dict(type='SiLU', inplace=False),
    ),
    neck=dict(
        type='mmext.CSPPAN',
        version='v8',
        in_channels=[256, 512, 512],
        out_channels=[256, 512, 512],
        deepen_factor=1.0,
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-3),
        act_cfg=dict(type='SiLU', inplace=False),
    ),
    bbox_head=dict(
        type='mmext.Segment',
        version='v8',
        num_classes=80,
        in_channels=[256, 512, 512],
        strides=(8, 16, 32),
        reg_max=16,
        num_prototypes=32,
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-3),
        act_cfg=dict(type='SiLU', inplace=False),
        proto=dict(type='mmext.Proto', hidden_channels=256),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
        loss_bbox=dict(type='mmext.CIoULoss', loss_weight=7.5),
        loss_dfl=dict(type='mmext.BoxDistributionLoss', loss_weight=1.5),
        loss_mask=dict(type='mmext.DenseMaskLoss', loss_weight=7.5, mask_stride=4),
        loss_scale='batch',
    ),
    train_cfg=dict(
        assigner=dict(type='mmext.BatchTALAssigner', topk=10, alpha=0.5, beta=6.0, min_gt_side=16.0)
    ),
    test_cfg=dict(
        score_thr=0.001,
        nms_pre=30000,
        nms=dict(type='nms', iou_threshold=0.7),
        # COCO's AP looks at 100 detections an image; masks of more would be work for nothing.
        max_per_img=100,
        multi_label=True,
        mask_thr_binary=0.5,
        mask_format='rle',
    ),
)

# Larger models take stronger augmentation: wider scales, mixup and pasted mirror images.
train_pipeline = [
    dict(type='mmext.Mosaic', scale=(640, 640), prob=1.0),
    dict(type='mmext.FlipPaste', prob=0.3),
    dict(type='mmext.RandomAffine', max_translate=0.1, scale_range=(0.1, 1.9), size=(640, 640)),
    dict(type='mmext.MixUp', alpha=32.0, prob=0.15),
    dict(type='mmext.HSV', hue=0.015, saturation=0.7, value=0.4),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

max_epochs = 500
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.01,
        begin=0,
        end=max_epochs,
        by_epoch=True,
    )
]

default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP', rule='greater'))
