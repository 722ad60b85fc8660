"""Drawn portraits with soft mattes, made by `tools/make_synthetic.py data/portraits --preset portraits`.

For pictures of 256 pixels. For 512 make them with `--size 512` and take, in the leaf, `_base_.train_pipeline_512`,
`_base_.test_pipeline_512` and `_base_.tta_pipeline_512` as in person_parsing.py.
"""

_base_ = './matte_pipelines.py'

data_root = 'data/portraits/'
image_size = 256


def train_steps(size: int) -> list:
    """Half of the people before a new background: their own colours are known, also where hair is transparent."""
    return [
        dict(type='mmext.LoadImage'),
        dict(type='mmext.LoadAlpha'),
        dict(
            type='RandomResize',
            resize_type='mmext.AlphaResize',
            scale=(size, size),
            ratio_range=(0.75, 1.5),
            keep_ratio=True,
        ),
        dict(type='mmext.CompositeBackground', prob=0.5),
        dict(type='mmext.AlphaFlip', prob=0.5),
        dict(
            type='mmext.AlphaShiftScaleRotate',
            shift=0.0625,
            scale_range=(0.9, 1.1),
            rotate=15.0,
            prob=0.5,
        ),
        dict(type='mmext.AlphaCrop', size=(size, size), min_foreground=0.3),
        dict(type='mmext.BrightnessContrast', brightness=0.2, contrast=0.2, prob=0.5),
        dict(type='mmext.HSV', hue=0.03, saturation=0.3, value=0.1),
        dict(type='mmext.RandomBlur', sigma=(0.3, 1.5), prob=0.2),
        dict(type='mmext.RandomJPEG', quality=(40, 95), prob=0.2),
        dict(type='mmext.PackMatteInputs'),
    ]


train_pipeline = train_steps(image_size)
train_pipeline_512 = train_steps(512)

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmext.MatteDataset',
        data_root=data_root,
        ann_file='train.txt',
        data_prefix=dict(img='images', alpha='alpha', foreground='foreground'),
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
        type='mmext.MatteDataset',
        data_root=data_root,
        ann_file='val.txt',
        data_prefix=dict(img='images', alpha='alpha'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader

# The others take most of the time (connectivity, SSIM, outlines) and wait for the test.
val_evaluator = dict(type='mmext.MatteMetric', measures=('region', 'error'))
test_evaluator = dict(type='mmext.MatteMetric')
