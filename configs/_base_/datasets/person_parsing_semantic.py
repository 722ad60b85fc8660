"""251 street photos, each pixel one of six classes, made by `tools/convert_dataset.py person_parsing RAW
data/person_parsing_semantic --semantic`.

The 59 labels of Clothing Co-Parsing merged by name: mmext/datasets/converters/person_classes.py. All that is worn and
is no shoe is clothes.
"""

data_root = 'data/person_parsing_semantic/'
metainfo = dict(
    classes=('background', 'skin', 'hair', 'shoes', 'clothes', 'bag'),
    palette=[
        [0, 0, 0],
        [230, 159, 0],
        [204, 121, 167],
        [213, 94, 0],
        [86, 180, 233],
        [0, 158, 115],
    ],
)
# (width, height); the photos have about 550 x 825 pixels.
image_size = (256, 384)
crop_size = (256, 256)

train_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.75, 1.5), keep_ratio=True),
    # What comes in is not known, and not learnt.
    dict(type='RandomRotate', prob=0.5, degree=15.0, pad_val=0, seg_pad_val=255),
    # Half of the windows go to a class: shoes, hair and bags cover one pixel in a hundred each.
    dict(type='mmext.LabelCrop', size=crop_size, prob=0.5),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmext.BrightnessContrast', brightness=0.2, contrast=0.2, prob=0.5),
    dict(type='mmext.HSV', hue=0.03, saturation=0.3, value=0.1),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    # Behind the resizing: the truth keeps the size of the file, at which predictions are scored.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='train.txt',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.jpg',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='val.txt',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.jpg',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='mmext.SemanticMetric')
test_evaluator = dict(type='mmext.SemanticMetric', save_to='run')

# For `tools/test.py --tta`: the photo as it is and mirrored.
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=image_size, keep_ratio=True)],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
