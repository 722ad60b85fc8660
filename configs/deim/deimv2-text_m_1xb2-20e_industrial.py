"""A sentence for each class behind DEIMv2-M, on photos of industrial defects: the recipe of the mission, the detector frozen.

Before: train `deimv2_m_industrial.py`, and embed the sentences with CLIP ViT-B/32 or another text model of 512 channels:

    python tools/embed_text.py configs/deim/descriptions/industrial_defects.json MODEL_FOLDER weights/industrial_texts.safetensors
    python tools/train.py configs/deim/deimv2-text_m_1xb2-20e_industrial.py
    python tools/test.py configs/deim/deimv2-text_m_1xb2-20e_industrial.py work_dirs/deimv2-text_m_1xb2-20e_industrial/epoch_20.pth

With `--cfg-options model.frozen="('backbone',)"`, encoder and decoder learn as well, with the rate of the fusion. Not trained here: the
photos are not public.
"""

_base_ = ['./deimv2_m_industrial.py']

load_from = 'work_dirs/deimv2_m_industrial/epoch_100.pth'

max_epochs = 20

model = dict(
    type='mmext.DEIMMultimodal',
    data_preprocessor=dict(batch_augments=None),
    # All weights come with the detector.
    backbone=dict(checkpoint=None),
    frozen=('backbone', 'neck', 'decoder'),
    fusion=dict(
        type='mmext.MultimodalFusion',
        num_classes=6,
        visual_dim=256,
        text_dim=512,
        embed_dims=256,
        dropout=0.1,
        scale=10.0,
        text_weight=1.0,
        align_weight=0.5,
    ),
    text=dict(
        classes=(
            'NORMAL',
            'DEFORMACIONES',
            'ROTURA_FRACTURA',
            'RAYONES_ARANAZOS',
            'PERFORACIONES',
            'CONTAMINACION',
        ),
        embeddings='weights/industrial_texts.safetensors',
    ),
    criterion=dict(matcher=dict(change_epoch=0)),
)

train_pipeline = [
    dict(type='mmext.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    # Not in the last three epochs.
    dict(
        type='mmext.InEpochs',
        epochs=(0, max_epochs - 3),
        transforms=[
            dict(type='mmext.PhotometricDistortion', prob=0.3),
            dict(type='mmext.IoUCrop', prob=0.5),
        ],
    ),
    dict(type='mmext.DropSmallObjects', min_side=1),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=False, backend='pillow'),
    dict(type='mmext.DropSmallObjects', min_side=1),
    dict(type='mmdet.PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        patterns=[
            # Three numbers that have far to go.
            dict(pattern=r'^fusion\.(gate|bias|context\.log_scale)$', lr=1e-2, weight_decay=0.0),
            dict(pattern=r'norm|bias|visual_projection\.1', weight_decay=0.0),
        ]
    ),
)
param_scheduler = [
    dict(
        type='mmext.FlatCosineLR',
        flat=15,
        no_aug=3,
        warmup=500,
        end=max_epochs,
        gamma=0.5,
        convert_to_iter_based=True,
    )
]

custom_hooks = [
    dict(type='mmext.PreflightHook'),
    dict(type='mmdet.SetEpochInfoHook'),
    dict(type='mmext.EpochWindowsHook'),
    dict(type='mmext.FiniteLossHook'),
    # Its formula leaves weights that do not change as they are, to the last bit.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=1e-3,
        gamma=500,
        update_buffers=True,
        priority=49,
    ),
]
