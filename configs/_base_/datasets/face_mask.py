"""Faces with and without masks, one a photo, made by `tools/convert_dataset.py face_mask RAW data/face_mask --csv`."""

data_root = 'data/face_mask/'
metainfo = dict(classes=('mask_weared_incorrect', 'with_mask', 'without_mask'))
image_size = (256, 256)

train_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    # Scale and shape of the photo vary, and then the place in it: 264 photos show few of either.
    dict(
        type='RandomChoiceResize',
        resize_type='mmdet.Resize',
        scales=[(width, height) for width in (224, 256, 288) for height in (224, 256, 288)],
        keep_ratio=False,
    ),
    dict(
        type='mmext.RandomAffine',
        scale_range=(0.75, 1.35),
        max_translate=0.15,
        size=image_size,
        # A face of which less is left teaches a box that nobody would draw.
        min_box_ratio=0.5,
    ),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmext.HSV', hue=0.02, saturation=0.6, value=0.4),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='mmext.LoadImage'),
    # Stretched: all of the input is photo, and an overlap is the same in every stretch.
    dict(type='mmdet.Resize', scale=image_size, keep_ratio=False),
    # After the resizing: the truth stays in the frame of the file, as the predictions end there.
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmext.LocalizationDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='train.csv',
        data_prefix=dict(img='images/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=13,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.LocalizationDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='val.csv',
        data_prefix=dict(img='images/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
# There is no third split.
test_dataloader = val_dataloader

val_evaluator = dict(type='mmext.LocalizerMetric')
test_evaluator = val_evaluator
