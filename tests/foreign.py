"""A project that knows mmdet, written the way mmdet's users write: nothing of mmext but its names.

Folder `data` is that of `tests.tiny.make_tiny_coco`.
"""

FOREIGN_CONFIG = """
custom_imports = dict(imports=['mmext'])
default_scope = 'mmdet'
model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True,
        pad_mask=True, pad_size_divisor=32),
    backbone=dict(type='mmext.CSPBackbone', deepen_factor=0.33, widen_factor=0.125),
    neck=dict(type='mmext.CSPPAN', in_channels=[32, 64, 128], out_channels=[32, 64, 128],
              deepen_factor=0.33),
    bbox_head=dict(
        type='mmext.Segment', num_classes=2, in_channels=[32, 64, 128], num_prototypes=8,
        proto=dict(type='mmext.Proto', hidden_channels=16),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
        loss_bbox=dict(type='mmext.CIoULoss', loss_weight=7.5),
        loss_dfl=dict(type='mmext.BoxDistributionLoss', loss_weight=1.5),
        loss_mask=dict(type='mmext.DenseMaskLoss', loss_weight=7.5)),
    train_cfg=dict(assigner=dict(type='mmext.BatchTALAssigner')),
    test_cfg=dict(score_thr=0.001, max_per_img=20))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(
    type='CocoDataset', data_root='data', ann_file='train.json', data_prefix=dict(img='images/'),
    metainfo=dict(classes=('square', 'disc')), pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dataset)
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, test_mode=True))
val_evaluator = dict(type='CocoMetric', ann_file='data/train.json', metric=['bbox', 'segm'])
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
val_cfg = dict(type='ValLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
"""
