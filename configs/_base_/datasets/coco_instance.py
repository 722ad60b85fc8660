"""COCO 2017 with the augmentation of the small YOLO models at 640 px; larger ones state their own pipeline."""

data_root = 'data/coco/'
image_size = (640, 640)

load_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    # Without padding: mosaic joins bare images, and the affine step centres a single one as a letterbox does.
    dict(type='mmdet.Resize', scale=image_size, keep_ratio=True),
]
train_pipeline = [
    dict(type='mmext.Mosaic', scale=image_size, prob=1.0),
    dict(type='mmext.RandomAffine', max_translate=0.1, scale_range=(0.5, 1.5), size=image_size),
    dict(type='mmext.HSV', hue=0.015, saturation=0.7, value=0.4),
    dict(type='mmdet.RandomFlip', prob=0.5),
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
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmdet.MultiImageMixDataset',
        dataset=dict(
            type='mmext.InstanceDataset',
            data_root=data_root,
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            pipeline=load_pipeline,
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.InstanceDataset',
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type='mmdet.CocoMetric',
    ann_file=data_root + 'annotations/instances_val2017.json',
    metric=['bbox', 'segm'],
    classwise=False,
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
                dict(type='mmext.LetterBox', scale=(800, 800)),
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
