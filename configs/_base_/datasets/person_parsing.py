"""251 street photos with mattes, made by `tools/convert_dataset.py person_parsing RAW data/person_parsing`.

For pictures of 256 pixels. For 512, in the leaf:

    train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline_512))
    val_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline_512))
    test_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline_512))
    tta_pipeline = _base_.tta_pipeline_512

`train_pipeline_albumentations` is the mission's list of augmentations through that library
(`pip install 'mmext[app]'`); the others have the same ones as transforms of mmext. `train_pipeline_backgrounds` also
puts every fourth person before a drawn background, for photos that will not be taken in streets; not measured.
"""

_base_ = './matte_pipelines.py'

data_root = 'data/person_parsing/'
image_size = 256

# Photos stay upright but for one in ten: people in photos do.
augmentations = [
    dict(type='mmext.AlphaFlip', prob=0.5),
    dict(type='mmext.AlphaRotate90', prob=0.1),
    dict(
        type='mmext.AlphaShiftScaleRotate',
        shift=0.0625,
        scale_range=(0.9, 1.1),
        rotate=15.0,
        prob=0.5,
    ),
]
colours = [
    dict(type='mmext.BrightnessContrast', brightness=0.2, contrast=0.2, prob=0.5),
    dict(type='mmext.HSV', hue=0.03, saturation=0.3, value=0.1),
    dict(type='mmext.RandomBlur', sigma=(0.3, 1.5), prob=0.2),
]
albumentations = [
    dict(
        type='mmext.Albumentations',
        transforms=[
            dict(type='HorizontalFlip', p=0.5),
            dict(type='RandomRotate90', p=0.1),
            # ShiftScaleRotate, which that library has renamed.
            dict(
                type='Affine',
                translate_percent=(-0.0625, 0.0625),
                scale=(0.9, 1.1),
                rotate=(-15, 15),
                fill=114,
                p=0.5,
            ),
            dict(type='RandomBrightnessContrast', p=0.5),
            dict(type='HueSaturationValue', p=0.5),
            dict(type='Blur', blur_limit=(3, 5), p=0.2),
        ],
    ),
]


# No folder of photos: those of this data set show people, who would count as background.
backgrounds = [dict(type='mmext.CompositeBackground', prob=0.25)]


def train_steps(size: int, geometry: list, colour: list) -> list:
    """Pictures of several scales, of which a window of size x size is cut; smaller ones are padded in the batch."""
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
        *geometry,
        dict(type='mmext.AlphaCrop', size=(size, size), min_foreground=0.3),
        *colour,
        dict(type='mmext.PackMatteInputs'),
    ]


train_pipeline = train_steps(image_size, augmentations, colours)
train_pipeline_512 = train_steps(512, augmentations, colours)
train_pipeline_albumentations = train_steps(image_size, albumentations, [])
train_pipeline_backgrounds = train_steps(image_size, [*backgrounds, *augmentations], colours)

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
        data_prefix=dict(img='images', alpha='alpha'),
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
