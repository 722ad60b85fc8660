"""Synthetic defects in pairs that look alike: `tools/make_synthetic.py data/look-alike --preset look-alike --num-train 100 --num-val 200`.

An epoch goes eight times through the training images, which are few on purpose.
"""

_base_ = ['./synthetic_defects.py']

data_root = 'data/look-alike/'
metainfo = dict(classes=('RAYON', 'FISURA', 'MANCHA', 'ABOLLADURA', 'MOTA', 'PORO'))

train_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmext.LetterBox', scale=(256, 256)),
    dict(type='mmext.PhotometricDistortion', prob=0.5),
    # Metal has no up, down, left or right, and light comes from anywhere.
    dict(
        type='mmdet.RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    dict(type='mmdet.PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=8,
        dataset=dict(
            type='mmext.InstanceDataset',
            metainfo=metainfo,
            data_root=data_root,
            ann_file='train.json',
            data_prefix=dict(img='images/'),
            pipeline=train_pipeline,
        ),
    )
)
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_evaluator = dict(ann_file=data_root + 'val.json', metric='bbox')
test_evaluator = dict(ann_file=data_root + 'val.json', metric='bbox')
