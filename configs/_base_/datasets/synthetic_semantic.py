"""Synthetic defects as classes of pixels, made by `tools/make_synthetic.py data/synthetic_semantic --num-train 800 --semantic`.

Six classes: NORMAL, the sound surface, is what a pixel shows that belongs to no defect. Nine pixels in a thousand do.
"""

data_root = 'data/synthetic_semantic/'
metainfo = dict(
    classes=(
        'NORMAL',
        'DEFORMACIONES',
        'ROTURA_FRACTURA',
        'RAYONES_ARANAZOS',
        'PERFORACIONES',
        'CONTAMINACION',
    ),
    palette=[
        [0, 0, 0],
        [230, 159, 0],
        [213, 94, 0],
        [86, 180, 233],
        [0, 158, 115],
        [204, 121, 167],
    ],
)
# Enlarged twice: SegFormer's finest map has a fourth of the resolution, and scratches are three pixels wide.
image_size = (512, 512)
crop_size = (160, 160)

train_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.8, 1.25), keep_ratio=True),
    # Each defect of a picture as often, large or small; one window in ten lies anywhere.
    dict(type='mmext.LabelCrop', size=crop_size, prob=0.9),
    # Metal has no up, down, left or right.
    dict(
        type='RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    dict(type='mmext.HSV', hue=0.02, saturation=0.3, value=0.3),
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
        img_suffix='.png',
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
        img_suffix='.png',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='mmext.SemanticMetric')
test_evaluator = dict(type='mmext.SemanticMetric', save_to='run')

# For `tools/test.py --tta`: the picture as it is and mirrored.
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
