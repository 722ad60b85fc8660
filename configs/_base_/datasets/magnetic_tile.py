"""Magnetic-tile defects, made by `tools/convert_dataset.py magnetic_tile RAW data/magnetic_tile`."""

data_root = 'data/magnetic_tile/'
metainfo = dict(classes=('Blowhole', 'Break', 'Crack', 'Fray', 'Uneven'))
crop_size = (256, 256)
image_size = (320, 320)

train_pipeline = [
    dict(type='mmext.LoadImage'),
    # Bitmaps: mmdet ignores, without a word, objects whose mask is a run-length code where poly2mask is False.
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    # Up to 256 the whole tile is seen, as large defects need; above, a window around one defect, enlarged.
    dict(
        type='RandomChoiceResize',
        resize_type='mmdet.Resize',
        scales=[(side, side) for side in (224, 256, 288, 320, 384)],
        keep_ratio=True,
    ),
    dict(type='mmext.InstanceCrop', size=crop_size, prob=0.9),
    # A tile has no up, down, left or right.
    dict(
        type='mmdet.RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    # Each tile was photographed under several exposures.
    dict(type='mmext.HSV', hue=0.0, saturation=0.0, value=0.5),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='mmext.LetterBox', scale=image_size),
    # After the resizing: the truth stays in the frame of the file, as the predictions end there.
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param'),
    ),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    # 668 of 936 photos show no defect, and Fray has a fifth of the photos of Blowhole.
    sampler=dict(
        type='mmext.ClassBalancedSampler', empty_fraction=0.15, power=0.5, num_samples=1280
    ),
    dataset=dict(
        type='mmext.InstanceDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.InstanceDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='val.json',
        data_prefix=dict(img='images/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
# The test split is for the last number only.
test_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.InstanceDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='test.json',
        data_prefix=dict(img='images/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

val_evaluator = dict(
    type='mmext.InstanceCocoMetric',
    ann_file=data_root + 'val.json',
    metric=['bbox', 'segm', 'boundary'],
    classwise=True,
)
test_evaluator = dict(
    type='mmext.InstanceCocoMetric',
    ann_file=data_root + 'test.json',
    metric=['bbox', 'segm', 'boundary'],
    classwise=True,
)

# For `tools/test.py --tta`: the photo as it is and mirrored, each at two sizes.
tta_model = dict(type='mmext.InstanceTTAModel', iou_threshold=0.6, max_per_img=100)
tta_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            # Before the letterbox: a padding would be mirrored with the photo.
            [
                dict(type='mmdet.RandomFlip', prob=0.0),
                dict(type='mmdet.RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [
                dict(type='mmext.LetterBox', scale=image_size),
                dict(type='mmext.LetterBox', scale=(384, 384)),
            ],
            [
                dict(
                    type='mmdet.PackDetInputs',
                    meta_keys=(
                        'img_id',
                        'img_path',
                        'ori_shape',
                        'img_shape',
                        'scale_factor',
                        'pad_param',
                        'flip',
                        'flip_direction',
                    ),
                )
            ],
        ],
    ),
]
