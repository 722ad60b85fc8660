"""Photos of industrial defects in COCO format: boxes of six classes, stretched to 640 px squares.

data/industrial/{train,val}.json and data/industrial/images/. Photos without defects are background; a class NORMAL may
be annotated as well, as a box around an intact part.
"""

data_root = 'data/industrial/'
metainfo = dict(
    classes=(
        'NORMAL',
        'DEFORMACIONES',
        'ROTURA_FRACTURA',
        'RAYONES_ARANAZOS',
        'PERFORACIONES',
        'CONTAMINACION',
    )
)
image_size = (640, 640)

test_pipeline = [
    dict(type='mmext.LoadImage'),
    # Pillow, whose bilinear resizing is antialiased, as in the published training.
    dict(type='mmdet.Resize', scale=image_size, keep_ratio=False, backend='pillow'),
    # After the resizing: the truth stays in the frame of the file, as the predictions end there.
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmext.InstanceDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(img='images/'),
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=2,
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
    type='mmdet.CocoMetric',
    ann_file=data_root + 'val.json',
    metric='bbox',
    classwise=True,
)
test_evaluator = val_evaluator
