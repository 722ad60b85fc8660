"""The recipe of `segment_v8n_1xb8-20e_magnetic-tile.py` in batches of 16: half the steps in the same time on a CPU.

    python tools/train.py configs/yolo/segment_v8n_1xb16-20e_magnetic-tile.py
    python tools/test.py configs/yolo/segment_v8n_1xb16-20e_magnetic-tile.py work_dirs/segment_v8n_1xb16-20e_magnetic-tile/epoch_20.pth

On two CPU cores take batches of 8: of the same 25,600 crops they learn more (README.md has both). This one is for GPUs that
small batches leave idle, where more epochs cost little.
"""

# A third level of configs, on purpose: all but batch, rate and horizons is the other file's, word for word.
_base_ = ['./segment_v8n_1xb8-20e_magnetic-tile.py']

train_dataloader = dict(batch_size=16)
# 5e-3 had the same losses after 450 steps.
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        eta_min=2e-5,
        begin=0,
        end=20,
        T_max=20,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=16)

custom_hooks = [
    dict(type='mmext.PreflightHook'),
    dict(type='mmext.ChannelsLastHook'),
    # A horizon of 250 steps.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=4e-3,
        gamma=200,
        update_buffers=True,
        priority=49,
    ),
]
