"""A sentence for each class behind DEIMv2-Atto, on defects that look alike: second of two steps, the detector frozen.

    python tools/train.py configs/deim/deimv2_atto_1xb8-30e_look-alike.py
    python tools/train.py configs/deim/deimv2-text_atto_1xb8-20e_look-alike.py
    python tools/test.py configs/deim/deimv2-text_atto_1xb8-20e_look-alike.py work_dirs/deimv2-text_atto_1xb8-20e_look-alike/epoch_20.pth

The sentences are embedded by MiniLM, 384 channels; for another text model see tools/embed_text.py, and set `model.fusion.text_dim`.
The control, no class with a sentence of its own pair, and flat and deep ones mixed (a head that learns could undo a swap of all flat with
all deep ones): `--cfg-options model.text.permutation="[3,4,5,1,0,2]"`. Other sentences, or other classes, without training:
`tools/test.py ... --descriptions FILE`.
"""

_base_ = ['./deimv2_atto_1xb8-30e_look-alike.py']

load_from = 'work_dirs/deimv2_atto_1xb8-30e_look-alike/epoch_30.pth'

max_epochs = 20

model = dict(
    type='mmext.DEIMMultimodal',
    # The detector sees whole images: nothing of it learns.
    data_preprocessor=dict(batch_augments=None),
    frozen=('backbone', 'neck', 'decoder'),
    fusion=dict(
        type='mmext.MultimodalFusion',
        num_classes=6,
        visual_dim=64,
        text_dim=384,
        embed_dims=128,
        dropout=0.1,
        scale=10.0,
        text_weight=1.0,
        align_weight=0.5,
    ),
    text=dict(
        classes=('RAYON', 'FISURA', 'MANCHA', 'ABOLLADURA', 'MOTA', 'PORO'),
        embeddings='configs/deim/descriptions/look_alike_defects_minilm.safetensors',
    ),
    # The costs of the matcher do not change any more.
    criterion=dict(matcher=dict(change_epoch=0)),
)

train_cfg = dict(max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        patterns=[
            # Three numbers that have far to go: the gate from 0 to about 1, the temperature, the bias of the text logits.
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
        gamma=0.05,
        convert_to_iter_based=True,
    )
]

custom_hooks = [
    dict(type='mmext.PreflightHook'),
    dict(type='mmext.ChannelsLastHook'),
    dict(type='mmdet.SetEpochInfoHook'),
    dict(type='mmext.FiniteLossHook'),
    # Its formula leaves weights that do not change as they are, to the last bit.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=4e-3,
        gamma=200,
        update_buffers=True,
        priority=49,
    ),
]
