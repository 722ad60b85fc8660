"""YOLO11n-seg on COCO, from scratch, 8 GPUs x 16 images, 600 epochs.

Data: COCO 2017 in data/coco/. Published for this architecture: box / mask AP 38.9 / 32.0 on val2017 at 640 px (its own
trainer and weights; this config has not been trained here: no GPU and no COCO at hand).

    tools/dist_train.sh configs/yolo/segment_v11n_8xb16-600e_coco.py 8
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
        version='v11',
        deepen_factor=0.5,
        widen_factor=0.25,
        max_channels=1024,
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-3),
        act_cfg=dict(type='SiLU', inplace=False),
    ),
    neck=dict(
        type='mmext.CSPPAN',
        version='v11',
        in_channels=[128, 128, 256],
        out_channels=[64, 128, 256],
        deepen_factor=0.5,
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-3),
        act_cfg=dict(type='SiLU', inplace=False),
    ),
    bbox_head=dict(
        type='mmext.Segment',
        version='v11',
        num_classes=80,
        in_channels=[64, 128, 256],
        strides=(8, 16, 32),
        reg_max=16,
        num_prototypes=32,
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-3),
        act_cfg=dict(type='SiLU', inplace=False),
        proto=dict(type='mmext.Proto', hidden_channels=64),
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

max_epochs = 600
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
