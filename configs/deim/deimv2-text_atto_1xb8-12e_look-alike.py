"""A sentence for each class and DEIMv2-Atto trained end to end, on defects that look alike.

Starts, as `deimv2-text_atto_1xb8-20e_look-alike.py` does, from a detector that was trained without texts; then everything learns, the
detector at a twentieth of its first rate. See there for the sentences.

    python tools/train.py configs/deim/deimv2-text_atto_1xb8-12e_look-alike.py
    python tools/test.py configs/deim/deimv2-text_atto_1xb8-12e_look-alike.py work_dirs/deimv2-text_atto_1xb8-12e_look-alike/epoch_12.pth
"""

_base_ = ['./deimv2-text_atto_1xb8-20e_look-alike.py']

max_epochs = 12

model = dict(frozen=())

train_cfg = dict(max_epochs=max_epochs, val_interval=3)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        patterns=[
            dict(pattern=r'^fusion\.(gate|bias|context\.log_scale)$', lr=1e-2, weight_decay=0.0),
            dict(pattern=r'^fusion\..*(bias|visual_projection\.1)', weight_decay=0.0),
            dict(pattern=r'^fusion\.'),
            dict(pattern=r'\.(bn|lab)\.|norm|bias|down_sample\d\.2\.', lr=5e-5, weight_decay=0.0),
            dict(pattern=r'^(backbone|neck|decoder)\.', lr=5e-5),
        ]
    ),
)
param_scheduler = [
    dict(
        type='mmext.FlatCosineLR',
        flat=7,
        no_aug=2,
        warmup=200,
        end=max_epochs,
        gamma=0.05,
        convert_to_iter_based=True,
    )
]
