"""Magnetic-tile defects as classes of pixels, made by `tools/convert_dataset.py magnetic_tile RAW
data/magnetic_tile_semantic --semantic`.

Background and five defects, which cover three pixels in a hundred; cracks and blowholes one in ten thousand.
"""

data_root = 'data/magnetic_tile_semantic/'
metainfo = dict(
    classes=('background', 'Blowhole', 'Break', 'Crack', 'Fray', 'Uneven'),
    palette=[
        [0, 0, 0],
        [0, 158, 115],
        [213, 94, 0],
        [86, 180, 233],
        [204, 121, 167],
        [230, 159, 0],
    ],
)
# The tiles have 103 to 632 x 222 to 403 pixels.
image_size = (384, 384)
crop_size = (192, 192)

train_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='LoadAnnotations'),
    # Below 256 nearly the whole tile is seen, as large defects need.
    dict(type='RandomResize', scale=image_size, ratio_range=(0.6, 1.25), keep_ratio=True),
    dict(type='mmext.LabelCrop', size=crop_size, prob=0.8),
    # A tile has no up, down, left or right.
    dict(
        type='RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    # Each tile was photographed under several exposures.
    dict(type='mmext.HSV', hue=0.0, saturation=0.0, value=0.5),
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
    # 668 of 936 photos show no defect, and Fray has a fifth of the photos of Blowhole.
    sampler=dict(
        type='mmext.ClassBalancedSampler', empty_fraction=0.15, power=0.5, num_samples=1280
    ),
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
# The test split is for the last number only.
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='test.txt',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.jpg',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

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
