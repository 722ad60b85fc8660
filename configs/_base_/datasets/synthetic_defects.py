"""Synthetic industrial defects on brushed metal, made by `tools/make_synthetic.py data/synthetic`."""

data_root = 'data/synthetic/'
# NORMAL is an image without objects, not a class of objects.
metainfo = dict(
    classes=(
        'DEFORMACIONES',
        'ROTURA_FRACTURA',
        'RAYONES_ARANAZOS',
        'PERFORACIONES',
        'CONTAMINACION',
    )
)
image_size = (256, 256)

train_pipeline = [
    dict(type='mmext.LoadImage'),
    # Bitmaps: mmdet ignores, without a word, objects whose mask is a run-length code where poly2mask is False.
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmext.LetterBox', scale=image_size),
    # Metal has no up, down, left or right.
    dict(
        type='mmdet.RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    dict(type='mmext.HSV', hue=0.02, saturation=0.3, value=0.3),
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
    sampler=dict(type='DefaultSampler', shuffle=True),
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
test_dataloader = val_dataloader

val_evaluator = dict(
    type='mmext.InstanceCocoMetric',
    ann_file=data_root + 'val.json',
    metric=['bbox', 'segm', 'boundary'],
    classwise=True,
)
test_evaluator = val_evaluator

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
                dict(type='mmext.LetterBox', scale=(320, 320)),
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
